//! `edkm generate`

use std::path::PathBuf;

use clap::{ArgGroup, Args as ClapArgs};

use super::sampling::SamplingArgs;
use super::DeviceArgs;

/// `edkm generate`
#[derive(Debug, ClapArgs)]
#[command(group(ArgGroup::new("text to go on with").args(["prompt", "prompt_file"]).required(true)))]
pub struct GenerateArgs {
    /// A model folder, or hf:OWNER/NAME; palettized weights are used packed
    pub model_dir: PathBuf,
    /// The text to go on with
    #[arg(long, allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// A file with that text, but for a line's end at its end; line ends may be those of Windows; - is standard input
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// The most tokens to generate
    #[arg(long, default_value_t = 200)]
    pub tokens: usize,
    /// How tokens are chosen
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Where the model runs
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}
