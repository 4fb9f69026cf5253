//! The page of a model that no run has made: its weights.

use std::path::Path;

use edkm_llama::checkpoint::{Checkpoint, Dtype};
use edkm_llama::files::canonical;

use super::data::{ReportData, WeightFigure};
use super::html::{bytes, thousands};
use super::render;
use crate::files::write_whole;
use crate::TrainError;

/// How a file with such a page begins.
const BEGINNING: &str = "<!doctype html>\n<!-- edkm inspect -->\n";

/// The weight part of the page for any checkpoint: each matrix with its histogram, and the centroids of those that have palettes.
///
/// Memory: 8 bytes for each number of the largest matrix.
///
/// # Errors
/// A weight that cannot be read.
pub fn inspection(checkpoint: &Checkpoint, name: &str) -> Result<ReportData, TrainError> {
    let (mut weights, mut parameters) = (Vec::new(), 0);
    let (mut bits, mut palettized) = (0.0, 0.0);
    for name in checkpoint.weight_names() {
        let shape = checkpoint.weight_shape(name).unwrap_or_default();
        let count = shape.iter().product::<usize>();
        parameters += count as u64;
        if checkpoint.is_palettized(name) {
            let matrix = checkpoint.palettized(name)?;
            bits += matrix.bits_per_weight() * count as f64;
            palettized += count as f64;
            weights.push(WeightFigure::of_matrix(name, &matrix, None));
        } else if shape.len() == 2 && checkpoint.info(name).is_some_and(|info| is_float(info.dtype)) {
            weights.push(WeightFigure::plain(name, &shape, &checkpoint.read_f32(name, &shape)?));
        }
    }
    Ok(ReportData {
        title: name.to_owned(),
        settings: vec![
            ("parameters".to_owned(), thousands(parameters)),
            ("in files".to_owned(), bytes(checkpoint.file_bytes())),
        ],
        bits_per_weight: (palettized > 0.0).then(|| bits / palettized),
        weights,
        ..ReportData::default()
    })
}

/// Writes the page to a file.
///
/// # Errors
/// If the file cannot be written.
pub fn write_inspection(path: &Path, data: &ReportData) -> Result<(), TrainError> {
    let page = render(data);
    let rest = page.strip_prefix("<!doctype html>\n").unwrap_or(&page);
    let page = format!("{BEGINNING}{rest}");
    // the file behind a link, which stays one
    let path = &canonical(path).unwrap_or_else(|_| path.to_path_buf());
    match path.is_file() || !path.exists() {
        true => write_whole(path, page.as_bytes()),
        // a pipe or a terminal, which nothing can take the place of
        false => std::fs::write(path, page).map_err(TrainError::io("write", path)),
    }
}

/// Whether a file that begins so was written by [`write_inspection`].
pub fn begins_an_inspection(beginning: &[u8]) -> bool {
    beginning.starts_with(BEGINNING.as_bytes())
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}
