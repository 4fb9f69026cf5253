//! `edkm chat`

use std::path::PathBuf;

use clap::{ArgAction, Args as ClapArgs};
use serde_json::Value;

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
    /// Give the model's chat template this value too, JSON or a text: --template-arg enable_thinking=false has Qwen 3 answer without thoughts; may be repeated
    #[arg(long = "template-arg", value_name = "NAME=VALUE", action = ArgAction::Append, value_parser = template_argument)]
    pub template_arguments: Vec<(String, Value)>,
    /// The most tokens of a response
    #[arg(long, default_value_t = 256)]
    pub tokens: usize,
    /// Tokens that are remembered, instructions and responses together; without it 1792 and those of a response (--tokens), or as many as the model can have
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

/// A name and what it stands for: JSON, or else a text.
fn template_argument(argument: &str) -> Result<(String, Value), String> {
    match argument.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            Ok((name.to_owned(), value))
        }
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
