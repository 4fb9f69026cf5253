//! `report.html`: a run on one page that needs nothing else, neither scripts nor fonts nor a network.
//!
//! The page is text and inline SVG; a content security policy in it keeps the browser from loading anything at all, whatever
//! a model may have written into a sample. It is readable at a phone's width and follows the reader's light or dark setting.

mod axis;
mod chart;
mod data;
mod html;
mod inspection;
mod sections;
mod weights;

use std::path::Path;

pub use data::{
    BeforeAfter, Centroid, Contender, ContenderRole, Histogram, ReportData, Sample, StoreFigures, StoreLayerFigures,
    WeightFigure,
};

pub use inspection::{begins_an_inspection, inspection, write_inspection};
pub(crate) use weights::{MOST_CENTROIDS, TALL_CENTROIDS};

use crate::TrainError;
use html::escape;
pub(crate) use html::thousands;

/// The page.
pub fn render(data: &ReportData) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{0}</title>\n<style>\n{1}</style></head>\n<body><main><h1>{0}</h1>\n",
        escape(&data.title),
        include_str!("style.css")
    );
    // Writing to a string cannot fail.
    let _ = sections::all(&mut page, data);
    page + "</main></body></html>\n"
}

/// Writes the page to a file.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, data: &ReportData) -> Result<(), TrainError> {
    std::fs::write(path, render(data)).map_err(TrainError::io("write", path))
}

#[cfg(test)]
mod tests;
