//! `edkm generate`

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgAction, Args as ClapArgs};

/// `edkm generate`
#[derive(Debug, ClapArgs)]
pub struct GenerateArgs {
    /// A model folder; palettized weights are used packed
    pub model_dir: PathBuf,
    /// The text to go on with
    #[arg(long)]
    pub prompt: String,
    /// The most tokens to generate
    #[arg(long, default_value_t = 200)]
    pub tokens: usize,
    /// Below 1 likely tokens become likelier; 0 always takes the likeliest
    #[arg(long, default_value_t = 0.8)]
    pub temperature: f32,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f32,
    /// Choose among so many of the likeliest tokens
    #[arg(long)]
    pub top_k: Option<NonZeroUsize>,
    /// Makes tokens that were there before less likely; 1 changes nothing
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// End before this text; may be repeated
    #[arg(long, value_name = "TEXT", action = ArgAction::Append)]
    pub stop: Vec<String>,
    /// Where the stream of random numbers begins
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    pub json: bool,
}
