//! `edkm bench ...`

use std::num::NonZeroUsize;

use clap::{value_parser, Args as ClapArgs, Subcommand};

/// `edkm bench ...`
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// What marshaling, uniquification and sharding take off plain DKM, and what the fused form keeps
    Ablation(BenchAblationArgs),
    /// Clustering one weight matrix, forward and backward
    Cluster(BenchClusterArgs),
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
    /// Measurements, of which the median is shown
    #[arg(long, default_value_t = 7)]
    pub repeats: usize,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}
