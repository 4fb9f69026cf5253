//! The program `edkm`: fine-tune, compress, evaluate and run LLaMA models with clustered weights.
// A program has no outside: `pub` says what is meant for other modules.
#![allow(unreachable_pub)]

mod args;
mod commands;
mod console;
mod embedded;
mod progress;
mod started;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use edkm_train::TrainError;

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    // Kernels run in the pool that they are called from; inside it a call costs no hand-over.
    let outcome = rayon::scope(|_| run(args));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(stopped @ TrainError::Interrupted { .. }) = error.downcast_ref() {
                eprintln!("{stopped}");
                return ExitCode::from(progress::INTERRUPTED);
            }
            eprintln!("error: {}", commands::Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match args.command {
        Command::Finetune(args) => commands::finetune::run(*args),
        Command::Compress(args) => commands::compress::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Bench { bench } => commands::bench::run(bench),
        Command::MakeDefault(args) => commands::make_default::run(args),
    }
}
