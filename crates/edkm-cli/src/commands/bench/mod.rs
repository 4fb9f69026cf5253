//! `edkm bench`

mod ablation;
mod cluster;

use super::Failure;
use crate::args::BenchCommand;

pub fn run(bench: BenchCommand) -> Result<(), Failure> {
    match bench {
        BenchCommand::Ablation(args) => ablation::run(args),
        BenchCommand::Cluster(args) => cluster::run(args),
    }
}
