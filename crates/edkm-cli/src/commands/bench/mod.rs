//! `edkm bench`

mod cluster;

use super::Failure;
use crate::args::BenchCommand;

pub fn run(bench: BenchCommand) -> Result<(), Failure> {
    match bench {
        BenchCommand::Cluster(args) => cluster::run(args),
    }
}
