//! `edkm eval`

use std::path::PathBuf;

use clap::{ArgAction, Args as ClapArgs};

use super::task_requests::TaskRequests;
use super::{DeviceArgs, KeptApart};

/// `edkm eval`
#[derive(Debug, ClapArgs)]
pub struct EvalArgs {
    /// A model folder, or hf:OWNER/NAME
    pub model_dir: PathBuf,
    /// What to measure, on which files
    #[command(flatten)]
    pub tasks: TaskRequests,
    /// Perplexity: tokens of a window; without it 256
    #[arg(long)]
    pub seq: Option<usize>,
    /// Perplexity: what sees nothing of the text before it, though it shares a window with it; without it records
    #[arg(long, value_enum)]
    pub apart: Option<KeptApart>,
    /// Perplexity: use N tokens of the text: its beginning, of a folder those of all files alike
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Solved examples in front of each question: the first of the file itself, or of --few-shot-data (EleutherAI's harness draws them, but for MMLU)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub few_shot: usize,
    /// Use the first N questions of each file
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Measure this model too, for a table; may be repeated
    #[arg(long, value_name = "DIR", action = ArgAction::Append)]
    pub compare: Vec<PathBuf>,
    /// Where it is measured
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Write the log likelihoods of all answers to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub log_samples: Option<PathBuf>,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}

impl EvalArgs {
    /// Tokens of a window of a text.
    pub fn window(&self) -> usize {
        self.seq.unwrap_or(256)
    }
}
