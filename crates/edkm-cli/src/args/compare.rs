//! `edkm compare`

use std::path::PathBuf;

use clap::{value_parser, ArgAction, Args as ClapArgs};
use edkm_train::compare::{Contender, Width};

use super::PaletteArgs;

/// `edkm compare`
#[derive(Debug, ClapArgs)]
pub struct CompareArgs {
    /// A model folder, or hf:OWNER/NAME; without it the model inside the program is compressed, on generated text
    #[arg(requires = "data", requires = "valid")]
    pub model_dir: Option<PathBuf>,
    /// Text to train on and to look at: .txt, .json or .jsonl, or a folder with such files; may be repeated
    #[arg(long, value_name = "FILE", action = ArgAction::Append, requires = "valid")]
    pub data: Vec<PathBuf>,
    /// Text to measure on, of the same kinds; may be repeated
    #[arg(long, value_name = "FILE", action = ArgAction::Append, requires = "data")]
    pub valid: Vec<PathBuf>,
    /// What is compared: rtn, kmeans, weighted-kmeans, gptq, gptq-even (without training), dkm (as finetune does it), dkm-text (without
    /// distillation), straight-through (hard assignment), uncompressed (training alone)
    #[arg(
        long,
        value_name = "METHODS",
        value_delimiter = ',',
        default_value = "rtn,kmeans,weighted-kmeans,gptq,dkm"
    )]
    pub methods: Vec<Contender>,
    /// Bits of an index, for each method in turn; one such as 2.7 is a budget that is spent by layer
    #[arg(long, value_name = "BITS", value_delimiter = ',', default_value = "2,3,4")]
    pub bits: Vec<Width>,
    /// Runs of methods that look at text, with seeds from 0
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Steps of training
    #[arg(long, default_value_t = 400)]
    pub steps: u64,
    /// Peak learning rate; without it the one that is right for the bits
    #[arg(long, value_name = "RATE")]
    pub lr: Option<f64>,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 256)]
    pub seq: usize,
    /// Sequences of a step
    #[arg(long, default_value_t = 8)]
    pub batch: usize,
    /// Windows of the text that methods look at which do not train
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub windows: usize,
    /// Tokens of the validation text that are used
    #[arg(long, value_name = "N", default_value_t = 40_000)]
    pub eval_tokens: usize,
    /// The palettes
    #[command(flatten)]
    pub palettes: PaletteArgs,
    /// Folder to write; one with runs of the same comparison is gone on with. Without it a new one, edkm-compare
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Begin even if there seems to be too little memory or disk
    #[arg(long)]
    pub ignore_limits: bool,
    /// Drop what OUT holds of another comparison
    #[arg(long)]
    pub overwrite: bool,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}
