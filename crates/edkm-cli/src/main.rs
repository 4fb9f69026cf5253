//! The program `edkm`: fine-tune, compress, evaluate and run LLaMA models with clustered weights.
// A program has no outside: `pub` says what is meant for other modules.
#![allow(unreachable_pub)]

mod args;
mod commands;
mod console;
mod device;
mod embedded;
mod hub;
mod interrupts;
mod progress;
mod run_log;
mod started;
mod subscriber;
mod table;
mod written_over;

use std::process::ExitCode;

use args::{Args, Command};
use edkm_train::bench::phases::PhaseTimes;
use edkm_train::TrainError;

#[global_allocator]
static ALLOCATOR: edkm_kernels::LargePages = edkm_kernels::LargePages;

fn main() -> ExitCode {
    let args = Args::of_process();
    if let Err(why) = interrupts::outlive_file_limits() {
        console::note(format_args!("a file that reaches a limit will end the process: {why}"));
    }
    let phases = PhaseTimes::default();
    let log = run_log::RunLog::default();
    let outcome = subscriber::init(&args.command, args.command.phases(&phases), &log).and_then(|trace| {
        // Kernels run in the pool that they are called from; inside it a call costs no hand-over.
        let done = rayon::scope(|_| run(args, &phases, log));
        // what was traced of work that ended early is of use too
        let traced = trace.map_or(Ok(()), |trace| trace.finish(done.is_ok()));
        done.and(traced)?;
        console::check()
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(
                stopped @ (TrainError::Interrupted { .. }
                | TrainError::ComparisonInterrupted { .. }
                | TrainError::Stopped),
            ) = error.downcast_ref()
            {
                let stopped = format!("{stopped}{}", commands::what_to_do(stopped));
                tracing::info!(target: run_log::PROGRESS, "{stopped}");
                console::note(stopped);
                return ExitCode::from(interrupts::INTERRUPTED);
            }
            let what_to_do = error.downcast_ref().map(commands::what_to_do).unwrap_or_default();
            let said = format!("{}{what_to_do}", commands::Chain(error.as_ref()));
            tracing::error!(target: run_log::PROGRESS, "{said}");
            console::note(format_args!("error: {said}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args, phases: &PhaseTimes, log: run_log::RunLog) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match args.command {
        Command::Finetune(args) => commands::finetune::run(*args, log),
        Command::Compare(args) => commands::compare::run(*args),
        Command::Compress(args) => commands::compress::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Export(args) => commands::export::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Bench { bench } => commands::bench::run(bench, phases),
        Command::MakeDefault(args) => commands::make_default::run(args),
    }
}
