//! How text is generated: what `generate` and `chat` have in common.

use std::num::NonZeroUsize;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Args as ClapArgs, ValueEnum};
use edkm_llama::inference::{CacheType, SamplingOptions};

/// How tokens are chosen and where their keys and values are kept.
#[derive(Debug, ClapArgs)]
pub struct SamplingArgs {
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
    #[arg(long, value_name = "TEXT", action = ArgAction::Append, allow_hyphen_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Where the stream of random numbers begins
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The numbers of the key and value cache; f16 takes half the memory
    #[arg(long, value_enum, default_value_t = CacheNumbers::F32)]
    pub cache: CacheNumbers,
}

/// Types of the numbers in a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CacheNumbers {
    /// As the model computes them
    F32,
    /// Rounded to 11 bits
    F16,
}

impl From<CacheNumbers> for CacheType {
    fn from(numbers: CacheNumbers) -> Self {
        match numbers {
            CacheNumbers::F32 => Self::F32,
            CacheNumbers::F16 => Self::F16,
        }
    }
}

impl SamplingArgs {
    /// As the library has them.
    pub fn options(&self) -> SamplingOptions {
        SamplingOptions {
            repetition_penalty: self.repetition_penalty,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
        }
    }
}
