//! `edkm chat`

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::sampling::SamplingArgs;
use super::DeviceArgs;

/// `edkm chat`
#[derive(Debug, ClapArgs)]
pub struct ChatArgs {
    /// A model folder, or hf:OWNER/NAME; palettized weights are used packed
    pub model_dir: PathBuf,
    /// What the model is told before all else, as the system message of its chat template; without one, in front of the first instruction
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system: Option<String>,
    /// The most tokens of a response
    #[arg(long, default_value_t = 256)]
    pub tokens: usize,
    /// Tokens that are remembered, instructions and responses together; without it, as many as the model can have, at most 2048
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<usize>,
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
