//! `edkm inspect`

use std::path::PathBuf;

use clap::Args as ClapArgs;

/// `edkm inspect`
#[derive(Debug, ClapArgs)]
pub struct InspectArgs {
    /// A model folder, a safetensors file, or hf:OWNER/NAME
    pub path: PathBuf,
    /// Write a page with the histogram of every weight matrix and its centroids
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}
