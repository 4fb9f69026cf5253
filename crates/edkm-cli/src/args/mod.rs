//! The arguments, as typed: one file a command.

mod bench;
mod clustering;
mod compress;
mod eval;
mod finetune;
mod generate;
mod inspect;
mod make_default;

use clap::{Parser, Subcommand};

pub use bench::{BenchAblationArgs, BenchClusterArgs, BenchCommand};
pub use clustering::ClusterArgs;
pub use compress::{CompressArgs, CompressMethod};
pub use eval::EvalArgs;
pub use finetune::FinetuneArgs;
pub use generate::GenerateArgs;
pub use inspect::InspectArgs;
pub use make_default::MakeDefaultArgs;

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
    Finetune(Box<FinetuneArgs>),
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
