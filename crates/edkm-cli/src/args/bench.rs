//! `edkm bench ...`

use std::num::{NonZeroUsize, ParseIntError};
use std::path::PathBuf;

use clap::{value_parser, Args as ClapArgs, Subcommand, ValueEnum};
use edkm_store::Bytes;
use edkm_train::bench::layer::Variant;
use edkm_train::bench::saved::SavedPart;

use super::{DeviceArgs, OptimizerChoice};

/// `edkm bench ...`
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// What marshaling, uniquification and sharding take off plain DKM, and what the fused form keeps
    Ablation(BenchAblationArgs),
    /// Clustering one weight matrix, forward and backward
    Cluster(BenchClusterArgs),
    /// Generation with a packed model of random weights: loading, memory, speed beside dfdx's f32 products
    Generate(BenchGenerateArgs),
    /// A decoder layer, forward and backward: of dfdx's own ops, of ours, clustered, and clustered with checkpointing
    Layer(BenchLayerArgs),
    /// Bytes that a decoder layer keeps for backward, by store and recomputation, beside dfdx's own tape and ops
    Saved(BenchSavedArgs),
    /// A training step of a model with random weights, and where its time goes
    Step(BenchStepArgs),
}

/// `edkm bench ablation`
#[derive(Debug, ClapArgs)]
pub struct BenchAblationArgs {
    /// Output channels
    #[arg(long, default_value_t = 4096)]
    pub rows: usize,
    /// Input channels
    #[arg(long, default_value_t = 4096)]
    pub cols: usize,
    /// Bits of an index
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u8).range(1..=8))]
    pub bits: u8,
    /// Learners that hold the same matrix
    #[arg(long, default_value_t = 8)]
    pub learners: usize,
    /// Repetitions of k-means
    #[arg(long, default_value_t = 3)]
    pub iterations: usize,
    /// Write a trace of every pack and unpack, to be opened in Perfetto (ui.perfetto.dev)
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
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
    /// Where it is clustered, and the copies made that it is compared with
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Measurements, of which the median is shown
    #[arg(long, default_value_t = 7, value_parser = at_least_one)]
    pub repeats: usize,
    /// Write a trace of every layer and op, to be opened in Perfetto (ui.perfetto.dev)
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}

/// `edkm bench generate`
#[derive(Debug, ClapArgs)]
pub struct BenchGenerateArgs {
    /// llama-7b, tinyllama-1.1b, smollm-135m, llama-3.2-1b, qwen3-0.6b, or a config.json
    #[arg(long, default_value = "tinyllama-1.1b")]
    pub config: String,
    /// Bits of an index in the decoder's layers
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u8).range(1..=8))]
    pub bits: u8,
    /// One palette for so many output channels of a decoder's layer
    #[arg(long, value_name = "CHANNELS")]
    pub group: Option<NonZeroUsize>,
    /// Bits of an index in the embedding and the output projection
    #[arg(long, default_value_t = 8, value_parser = value_parser!(u8).range(1..=8))]
    pub embedding_bits: u8,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..))]
    pub prompt: u32,
    /// Tokens to generate
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(2..))]
    pub tokens: u32,
    /// Where the model runs. On a GPU it is not compared with dfdx
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Write the model into this folder and do nothing else
    #[arg(long, hide = true, value_name = "DIR")]
    pub write_to: Option<PathBuf>,
    /// Write a trace of every layer and op, to be opened in Perfetto (ui.perfetto.dev)
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}

/// A decoder layer, what goes through it, and how its weights are clustered
#[derive(Debug, Clone, ClapArgs)]
pub struct LayerSizeArgs {
    /// Width of the residual stream
    #[arg(long, default_value_t = 4096)]
    pub hidden: usize,
    /// Width of the feed-forward part
    #[arg(long, default_value_t = 11008)]
    pub intermediate: usize,
    /// Query heads
    #[arg(long, default_value_t = 32)]
    pub heads: usize,
    /// Key and value heads; without it, as many as query heads
    #[arg(long)]
    pub kv_heads: Option<usize>,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 512)]
    pub seq: usize,
    /// Sequences
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// Bits of an index
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u8).range(1..=8))]
    pub bits: u8,
}

/// `edkm bench layer`
#[derive(Debug, ClapArgs)]
pub struct BenchLayerArgs {
    /// Sizes of the layer
    #[command(flatten)]
    pub sizes: LayerSizeArgs,
    /// Storage of tensors saved for backward, as for `edkm finetune`
    #[arg(long, value_name = "LAYERS", default_value = "marshal")]
    pub store: String,
    /// Where the layer is computed
    #[command(flatten)]
    pub device: DeviceArgs,
    /// How much of the tensors saved for backward stays in the GPU's memory, as for `edkm finetune`
    #[arg(long, value_name = "BUDGET")]
    pub device_memory: Option<Bytes>,
    /// Measurements, of which the median is shown
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    pub repeats: usize,
    /// Measure one row alone, in this process: its memory, and on a GPU its time
    #[arg(long, hide = true)]
    pub row: Option<LayerVariant>,
    /// Write a trace of every layer and op, to be opened in Perfetto (ui.perfetto.dev)
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}

/// A row of `edkm bench layer`
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LayerVariant {
    /// dfdx's own ops
    Stock,
    /// Ours, not clustered
    Unclustered,
    /// Ours, clustered
    Clustered,
    /// Ours, clustered, with checkpointing
    Checkpointed,
}

impl From<LayerVariant> for Variant {
    fn from(variant: LayerVariant) -> Self {
        match variant {
            LayerVariant::Stock => Variant::Stock,
            LayerVariant::Unclustered => Variant::Unclustered,
            LayerVariant::Clustered => Variant::Clustered,
            LayerVariant::Checkpointed => Variant::Checkpointed,
        }
    }
}

/// `edkm bench saved`
#[derive(Debug, ClapArgs)]
pub struct BenchSavedArgs {
    /// Sizes of the layer
    #[command(flatten)]
    pub sizes: LayerSizeArgs,
    /// Where the layer is computed
    #[command(flatten)]
    pub device: DeviceArgs,
    /// List what is kept
    #[arg(long, value_name = "WHAT")]
    pub by: Option<ListBy>,
    /// Measure these rows alone, in this process
    #[arg(long, hide = true)]
    pub rows: Option<SavedRows>,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}

/// Rows of `edkm bench saved`
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SavedRows {
    /// dfdx's own ops
    Stock,
    /// Ours
    Fused,
}

impl From<SavedRows> for SavedPart {
    fn from(rows: SavedRows) -> Self {
        match rows {
            SavedRows::Stock => SavedPart::Stock,
            SavedRows::Fused => SavedPart::Fused,
        }
    }
}

/// What `edkm bench saved` lists
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListBy {
    /// Every tensor that ops have saved, by op
    Tensor,
}

/// `edkm bench step`
#[derive(Debug, ClapArgs)]
pub struct BenchStepArgs {
    /// llama-7b, tinyllama-1.1b, smollm-135m, llama-3.2-1b, qwen3-0.6b, or a config.json
    #[arg(long, default_value = "smollm-135m")]
    pub config: String,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 512)]
    pub seq: usize,
    /// Sequences
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// Bits of an index
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u8).range(1..=8))]
    pub bits: u8,
    /// Without clustering
    #[arg(long, conflicts_with = "bits")]
    pub no_cluster: bool,
    /// Save only the input of each layer and run it again in backward
    #[arg(long, conflicts_with = "checkpoint_attention")]
    pub checkpoint_layers: bool,
    /// Save the input of each layer in place of attention's inside, and run that part again in backward
    #[arg(long)]
    pub checkpoint_attention: bool,
    /// How the optimizer keeps its moments, as for `edkm finetune`
    #[arg(long, value_enum, default_value_t = OptimizerChoice::Adamw)]
    pub optimizer: OptimizerChoice,
    /// Update each layer in backward, as soon as its gradients are whole
    #[arg(long)]
    pub update_in_backward: bool,
    /// Storage of tensors saved for backward, as for `edkm finetune`
    #[arg(long, value_name = "LAYERS")]
    pub store: Option<String>,
    /// Where the step is done
    #[command(flatten)]
    pub device: DeviceArgs,
    /// How much of the tensors saved for backward stays in the GPU's memory, as for `edkm finetune`
    #[arg(long, value_name = "BUDGET")]
    pub device_memory: Option<Bytes>,
    /// Steps, of which the median is shown
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    pub repeats: usize,
    /// Write a trace of every layer and op, to be opened in Perfetto (ui.perfetto.dev)
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}

/// A count of what a median is taken of.
fn at_least_one(text: &str) -> Result<usize, ParseIntError> {
    text.parse().map(|count: NonZeroUsize| count.get())
}
