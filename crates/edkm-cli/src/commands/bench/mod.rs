//! `edkm bench`

mod ablation;
mod cluster;
mod generate;
mod layer;
mod own_process;
mod saved;
mod step;

use edkm_train::bench::phases::PhaseTimes;

use super::Failure;
use crate::args::BenchCommand;

pub fn run(bench: BenchCommand, phases: &PhaseTimes) -> Result<(), Failure> {
    match bench {
        BenchCommand::Ablation(args) => ablation::run(args),
        BenchCommand::Cluster(args) => cluster::run(args),
        BenchCommand::Generate(args) => generate::run(args),
        BenchCommand::Layer(args) => layer::run(args),
        BenchCommand::Saved(args) => saved::run(args),
        BenchCommand::Step(args) => step::run(args, phases),
    }
}
