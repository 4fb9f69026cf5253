//! `edkm make-default`

use std::path::PathBuf;

use clap::Args as ClapArgs;

/// `edkm make-default`
#[derive(Debug, ClapArgs)]
pub struct MakeDefaultArgs {
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Steps of training
    #[arg(long, default_value_t = 2500)]
    pub steps: u64,
    /// Peak learning rate
    #[arg(long, default_value_t = 4e-3)]
    pub lr: f64,
    /// Bytes of text to train on
    #[arg(long, default_value_t = 8_000_000)]
    pub bytes: usize,
    /// Replace OUT if it holds a model
    #[arg(long)]
    pub overwrite: bool,
}
