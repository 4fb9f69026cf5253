//! The arguments, as typed: one file a command.

mod bench;
mod changes;
mod chat;
mod clustering;
mod compare;
mod compress;
mod device;
mod eval;
mod export;
mod finetune;
mod generate;
mod inspect;
mod kept_apart;
mod make_default;
mod optimizer;
mod palettes;
mod range;
mod sampling;
mod task_requests;

use std::error::Error;
use std::num::ParseIntError;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};
use edkm_train::bench::phases::PhaseTimes;

pub use bench::{
    BenchAblationArgs, BenchClusterArgs, BenchCommand, BenchGenerateArgs, BenchLayerArgs, BenchSavedArgs,
    BenchStepArgs, LayerSizeArgs, ListBy,
};
pub use changes::{check_there, Changes};
pub use chat::ChatArgs;
pub use clustering::ClusterArgs;
pub use compare::CompareArgs;
pub use compress::CompressArgs;
pub use device::{DeviceArgs, PrecisionChoice};
pub use eval::EvalArgs;
pub use export::{ExportArgs, ExportFormat};
pub use finetune::FinetuneArgs;
pub use generate::GenerateArgs;
pub use inspect::InspectArgs;
pub use kept_apart::KeptApart;
pub use make_default::MakeDefaultArgs;
pub use optimizer::OptimizerChoice;
pub use palettes::PaletteArgs;
pub use range::Range;
pub use task_requests::TaskRequest;

/// Train-time weight clustering (eDKM) for LLaMA models: weight matrices that take only 2^bits values.
#[derive(Debug, Parser)]
#[command(
    name = "edkm",
    version,
    about,
    arg_required_else_help = true,
    max_term_width = 110,
    args_override_self = true,
    mut_subcommands(with_negative_numbers)
)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// The arguments of this process, which ends here if they are none.
    pub fn of_process() -> Self {
        Self::try_parse().unwrap_or_else(|error| in_words(error).exit())
    }
}

/// "Invalid digit" says little of a number below zero.
fn in_words(error: clap::Error) -> clap::Error {
    let is_integer = error.source().is_some_and(|source| source.is::<ParseIntError>());
    let context = [ContextKind::InvalidArg, ContextKind::InvalidValue].map(|kind| error.get(kind));
    match context {
        [Some(argument), Some(ContextValue::String(value))] if is_integer && value.starts_with('-') => {
            let message = format!("{argument} is {value}; expected a whole number that is not below 0");
            of_given_command(ErrorKind::ValueValidation, message)
        }
        _ => error,
    }
}

/// An error with the usage of the command that this process was given.
pub fn of_given_command(kind: ErrorKind, message: String) -> clap::Error {
    let mut all = Args::command();
    all.build();
    let given = std::env::args_os().skip(1).find_map(|name| {
        let name = name.to_str()?;
        all.find_subcommand(name).map(|command| command.get_name().to_owned())
    });
    match given.and_then(|name| all.find_subcommand_mut(&name)) {
        Some(command) => command.error(kind, message),
        None => Args::command().error(kind, message),
    }
}

/// Options that take a number hear of one below zero, and say their range. Without it a number with a minus is taken for an option.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let hears = |arg: clap::Arg| match arg.get_action().takes_values() && !arg.is_positional() {
        true => arg.allow_negative_numbers(true),
        false => arg,
    };
    command.mut_args(hears).mut_subcommands(with_negative_numbers)
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fine-tune a LLaMA with clustered weights and write the compressed model
    Finetune(Box<FinetuneArgs>),
    /// Compress a LLaMA without training
    Compress(CompressArgs),
    /// Compress a LLaMA in several ways and show what each costs: a table and a plot
    Compare(Box<CompareArgs>),
    /// Measure models: perplexity on a text, accuracy on PIQA, HellaSwag, Winogrande, ARC and MMLU
    Eval(EvalArgs),
    /// Let a model go on with a text
    Generate(GenerateArgs),
    /// Give a model instructions, one a line, and read its responses, in its chat template (without one, in Alpaca's); /clear begins anew, /exit ends, /help shows these
    Chat(ChatArgs),
    /// Write a model for other programs: plain weights, or palettes for Core ML
    Export(ExportArgs),
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

impl Command {
    /// The trace file that is to be written.
    pub fn trace(&self) -> Option<&Path> {
        match self {
            Command::Finetune(args) => args.trace.as_deref(),
            Command::Bench { bench } => match bench {
                BenchCommand::Ablation(args) => args.trace.as_deref(),
                BenchCommand::Cluster(args) => args.trace.as_deref(),
                BenchCommand::Generate(args) => args.trace.as_deref(),
                BenchCommand::Layer(args) => args.trace.as_deref(),
                // the work is done in a process of its own
                BenchCommand::Saved(_) => None,
                BenchCommand::Step(args) => args.trace.as_deref(),
            },
            _ => None,
        }
    }

    /// The folder that it writes as a whole, as far as a trace might be put there.
    pub fn out(&self) -> Option<&Path> {
        match self {
            Command::Finetune(args) => args.resume.as_deref().or(args.out.as_deref()),
            _ => None,
        }
    }

    /// The files that it reads, as far as a trace might be written over one.
    pub fn inputs(&self) -> Vec<&Path> {
        match self {
            Command::Finetune(args) => {
                let layers = &args.clustering.palettes.layers;
                let singles = [&args.model_dir, layers].into_iter().flatten();
                let files = args.data.iter().chain(&args.valid).chain(singles);
                files.map(PathBuf::as_path).collect()
            }
            Command::Bench { bench } => match bench {
                BenchCommand::Generate(args) => vec![Path::new(&args.config)],
                BenchCommand::Step(args) => vec![Path::new(&args.config)],
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// The account of a step's phases, if the command needs it kept.
    pub fn phases(&self, times: &PhaseTimes) -> Option<PhaseTimes> {
        match self {
            Command::Bench {
                bench: BenchCommand::Step(_),
            } => Some(times.clone()),
            _ => None,
        }
    }
}
