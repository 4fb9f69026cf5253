//! The program `edkm`: fine-tune, compress, evaluate and run LLaMA models with clustered weights.
// A program has no outside: `pub` says what is meant for other modules.
#![allow(unreachable_pub)]

mod args;
mod commands;
mod console;
mod embedded;
mod progress;
mod started;
mod subscriber;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use edkm_train::bench::phases::PhaseTimes;
use edkm_train::TrainError;

fn main() -> ExitCode {
    let args = Args::parse();
    let phases = PhaseTimes::default();
    let outcome = subscriber::init(args.command.trace(), args.command.phases(&phases)).and_then(|trace| {
        // Kernels run in the pool that they are called from; inside it a call costs no hand-over.
        rayon::scope(|_| run(args, &phases))?;
        trace.map_or(Ok(()), subscriber::Trace::finish)
    });
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

fn run(args: Args, phases: &PhaseTimes) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match args.command {
        Command::Finetune(args) => commands::finetune::run(*args),
        Command::Compress(args) => commands::compress::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Bench { bench } => commands::bench::run(bench, phases),
        Command::MakeDefault(args) => commands::make_default::run(args),
    }
}
