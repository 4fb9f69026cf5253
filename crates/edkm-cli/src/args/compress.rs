//! `edkm compress`

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{value_parser, Args as ClapArgs, ValueEnum};

/// How to compress without training.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum CompressMethod {
    /// The palette with the least squared error: exact k-means in one dimension
    Kmeans,
    /// Rounding to the nearest of evenly spaced values
    Rtn,
}

/// `edkm compress`
#[derive(Debug, ClapArgs)]
pub struct CompressArgs {
    /// A model folder
    pub model_dir: PathBuf,
    /// How palettes are found
    #[arg(long, value_enum)]
    pub method: CompressMethod,
    /// Bits of an index: each weight matrix takes 2^BITS values
    #[arg(long, value_parser = value_parser!(u8).range(1..=8))]
    pub bits: u8,
    /// One palette for so many output channels, in place of one for each matrix
    #[arg(long, value_name = "CHANNELS")]
    pub group: Option<NonZeroUsize>,
    /// Palettize the embedding and the output projection too, to so many bits
    #[arg(long, value_name = "BITS", value_parser = value_parser!(u8).range(1..=8))]
    pub embedding_bits: Option<u8>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace OUT if it holds a model
    #[arg(long)]
    pub overwrite: bool,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}
