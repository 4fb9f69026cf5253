//! `edkm compress`

use std::path::PathBuf;

use clap::{value_parser, ArgAction, Args as ClapArgs, ValueEnum};
use edkm_train::compress::{gptq::Levels, Method};

use super::PaletteArgs;

/// How to compress without training.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum CompressMethod {
    /// Rounding to the nearest of evenly spaced values
    Rtn,
    /// The palette with the least squared error from the weights in bf16: exact k-means in one dimension
    Kmeans,
    /// The same with errors weighted by squared gradients on the text (SqueezeLLM)
    WeightedKmeans,
    /// GPTQ on the text, onto a k-means palette that is fitted to it
    Gptq,
    /// GPTQ on the text, onto evenly spaced values
    GptqEven,
}

impl From<CompressMethod> for Method {
    fn from(method: CompressMethod) -> Self {
        match method {
            CompressMethod::Rtn => Method::RoundToNearest,
            CompressMethod::Kmeans => Method::KMeans,
            CompressMethod::WeightedKmeans => Method::WeightedKMeans,
            CompressMethod::Gptq => Method::Gptq(Levels::KMeans),
            CompressMethod::GptqEven => Method::Gptq(Levels::EvenlySpaced),
        }
    }
}

/// `edkm compress`
#[derive(Debug, ClapArgs)]
pub struct CompressArgs {
    /// A model folder, or hf:OWNER/NAME
    pub model_dir: PathBuf,
    /// How palettes are found
    #[arg(long, value_enum)]
    pub method: CompressMethod,
    /// Bits of an index: each weight matrix takes 2^BITS values. Not needed with --bits-budget, nor with --layers (3 then, where its rules
    /// give a matrix none)
    #[arg(long, required_unless_present_any = ["bits_budget", "layers"], value_parser = value_parser!(u8).range(1..=8))]
    pub bits: Option<u8>,
    /// Choose the bits of each layer so that they are so many a weight, palettes counted, where the loss feels them most; looks at the text
    #[arg(long, value_name = "BITS", conflicts_with = "bits")]
    pub bits_budget: Option<f64>,
    /// Show what each weight matrix would get, and end
    #[arg(long)]
    pub plan: bool,
    /// The palettes
    #[command(flatten)]
    pub palettes: PaletteArgs,
    /// Text to look at: .txt, .json or .jsonl, or a folder with such files; may be repeated. Needed by weighted-kmeans, gptq, gptq-even and --bits-budget
    #[arg(long, value_name = "FILE", action = ArgAction::Append)]
    pub data: Vec<PathBuf>,
    /// Windows of the text that are used
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub windows: usize,
    /// Tokens of a window
    #[arg(long, default_value_t = 256)]
    pub seq: usize,
    /// Seed of the choice of windows, and of what palettes of vectors (--vector) begin with
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder to write; not needed with --plan
    #[arg(long, value_name = "DIR", required_unless_present = "plan")]
    pub out: Option<PathBuf>,
    /// Begin even if there seems to be too little memory
    #[arg(long)]
    pub ignore_limits: bool,
    /// Replace OUT if it holds a model
    #[arg(long)]
    pub overwrite: bool,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}
