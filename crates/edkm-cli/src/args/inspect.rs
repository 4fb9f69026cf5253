//! `edkm inspect`

use std::path::PathBuf;

use clap::Args as ClapArgs;

/// `edkm inspect`
#[derive(Debug, ClapArgs)]
pub struct InspectArgs {
    /// A model folder or a safetensors file
    pub path: PathBuf,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}
