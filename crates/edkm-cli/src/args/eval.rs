//! `edkm eval`

use std::path::PathBuf;

use clap::Args as ClapArgs;

/// `edkm eval`
#[derive(Debug, ClapArgs)]
pub struct EvalArgs {
    /// A model folder
    pub model_dir: PathBuf,
    /// The text: .txt, .json or .jsonl
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Tokens of a window
    #[arg(long, default_value_t = 256)]
    pub seq: usize,
    /// Use the first N tokens of the text
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}
