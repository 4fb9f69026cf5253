//! The arguments, as typed.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{value_parser, ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Train-time weight clustering (eDKM) for LLaMA models: weight matrices that take only 2^bits values.
#[derive(Debug, Parser)]
#[command(
    name = "edkm",
    version,
    about,
    arg_required_else_help = true,
    max_term_width = 110,
    args_override_self = true
)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fine-tune a LLaMA with clustered weights and write the compressed model
    Finetune(FinetuneArgs),
    /// Compress a LLaMA without training
    Compress(CompressArgs),
    /// Measure the perplexity of a model on a text
    Eval(EvalArgs),
    /// Let a model go on with a text
    Generate(GenerateArgs),
    /// Show what a model folder or safetensors file holds
    Inspect(InspectArgs),
    /// Measure speed and memory
    Bench {
        /// What to measure
        #[command(subcommand)]
        bench: BenchCommand,
    },
    /// Train the embedded model again from nothing: its text, its tokenizer, its weights
    #[command(hide = true)]
    MakeDefault(MakeDefaultArgs),
}

/// `edkm finetune`
#[derive(Debug, ClapArgs)]
pub struct FinetuneArgs {
    /// A Hugging Face folder (config.json, tokenizer.json, model.safetensors) or one that edkm wrote; without it, the embedded tiny model
    pub model_dir: Option<PathBuf>,
    /// Text to train on: .txt (documents split at blank lines) or .json/.jsonl (Alpaca records); may be repeated
    #[arg(long, value_name = "FILE", action = ArgAction::Append)]
    pub data: Vec<PathBuf>,
    /// Text to measure perplexity on; without it, the last tenth of the training text is held out
    #[arg(long, value_name = "FILE")]
    pub valid: Option<PathBuf>,
    /// Bits of an index: each weight matrix takes 2^BITS values
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u8).range(1..=8))]
    pub bits: u8,
    /// One palette for so many output channels, in place of one for each matrix
    #[arg(long, value_name = "CHANNELS")]
    pub group: Option<NonZeroUsize>,
    /// Cluster the embedding and the output projection too, to so many bits
    #[arg(long, value_name = "BITS", value_parser = value_parser!(u8).range(1..=8))]
    pub embedding_bits: Option<u8>,
    /// Steps of training
    #[arg(long, default_value_t = 400)]
    pub steps: u64,
    /// Peak learning rate
    #[arg(long, default_value_t = 2e-3)]
    pub lr: f64,
    /// Decoupled weight decay of matrices
    #[arg(long, default_value_t = 0.0)]
    pub weight_decay: f32,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 256)]
    pub seq: usize,
    /// Sequences of a forward pass
    #[arg(long, default_value_t = 8)]
    pub batch: usize,
    /// Forward passes whose gradients make one step
    #[arg(long, default_value_t = 1)]
    pub accumulate: usize,
    /// Seed of the data's order
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Learn the predictions of the model as it came, not the text: better at few bits, a third more time
    #[arg(long)]
    pub distill: bool,
    /// Train the model as it is, without clustering
    #[arg(long)]
    pub no_cluster: bool,
    /// Repetitions of k-means in each step
    #[arg(long, default_value_t = 3)]
    pub iterations: usize,
    /// Tokens of the validation text that are used
    #[arg(long, value_name = "N", default_value_t = 40_000)]
    pub eval_tokens: usize,
    /// Measure rounding and k-means without training too (always done for the embedded model)
    #[arg(long)]
    pub baselines: bool,
    /// Save only the input of each layer and run it again in backward
    #[arg(long)]
    pub checkpoint_layers: bool,
    /// Storage of tensors saved for backward: layers by name, as in marshal,compress,spill=DIR:2GiB
    #[arg(long, value_name = "LAYERS", default_value = "marshal")]
    pub store: String,
    /// Folder to write; without it a new one, edkm-out
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Replace OUT if it holds a model
    #[arg(long)]
    pub overwrite: bool,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}

/// How to compress without training.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum CompressMethod {
    /// The palette with the least squared error: exact k-means in one dimension
    Kmeans,
    /// Rounding to the nearest of evenly spaced values
    Rtn,
}

/// `edkm compress`
#[derive(Debug, ClapArgs)]
pub struct CompressArgs {
    /// A model folder
    pub model_dir: PathBuf,
    /// How palettes are found
    #[arg(long, value_enum)]
    pub method: CompressMethod,
    /// Bits of an index: each weight matrix takes 2^BITS values
    #[arg(long, value_parser = value_parser!(u8).range(1..=8))]
    pub bits: u8,
    /// One palette for so many output channels, in place of one for each matrix
    #[arg(long, value_name = "CHANNELS")]
    pub group: Option<NonZeroUsize>,
    /// Palettize the embedding and the output projection too, to so many bits
    #[arg(long, value_name = "BITS", value_parser = value_parser!(u8).range(1..=8))]
    pub embedding_bits: Option<u8>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace OUT if it holds a model
    #[arg(long)]
    pub overwrite: bool,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}

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

/// `edkm generate`
#[derive(Debug, ClapArgs)]
pub struct GenerateArgs {
    /// A model folder; palettized weights are used packed
    pub model_dir: PathBuf,
    /// The text to go on with
    #[arg(long)]
    pub prompt: String,
    /// The most tokens to generate
    #[arg(long, default_value_t = 200)]
    pub tokens: usize,
    /// Below 1 likely tokens become likelier; 0 always takes the likeliest
    #[arg(long, default_value_t = 0.8)]
    pub temperature: f32,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f32,
    /// Choose among so many of the likeliest tokens
    #[arg(long)]
    pub top_k: Option<NonZeroUsize>,
    /// Makes tokens that were there before less likely; 1 changes nothing
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// End before this text; may be repeated
    #[arg(long, value_name = "TEXT", action = ArgAction::Append)]
    pub stop: Vec<String>,
    /// Where the stream of random numbers begins
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}

/// `edkm inspect`
#[derive(Debug, ClapArgs)]
pub struct InspectArgs {
    /// A model folder or a safetensors file
    pub path: PathBuf,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}

/// `edkm bench ...`
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Clustering one weight matrix, forward and backward
    Cluster(BenchClusterArgs),
}

/// `edkm bench cluster`
#[derive(Debug, ClapArgs)]
pub struct BenchClusterArgs {
    /// Output channels
    #[arg(long, default_value_t = 4096)]
    pub rows: usize,
    /// Input channels
    #[arg(long, default_value_t = 4096)]
    pub cols: usize,
    /// Bits of an index
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u8).range(1..=8))]
    pub bits: u8,
    /// Repetitions of k-means
    #[arg(long, default_value_t = 3)]
    pub iterations: usize,
    /// One palette for so many output channels
    #[arg(long, value_name = "CHANNELS")]
    pub group: Option<NonZeroUsize>,
    /// Weights of a vector that shares an index: 1, 2, 4 or 8
    #[arg(long, default_value_t = 1)]
    pub vector: usize,
    /// Measurements, of which the median is shown
    #[arg(long, default_value_t = 7)]
    pub repeats: usize,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}

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
