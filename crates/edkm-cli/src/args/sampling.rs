//! How text is generated: what `generate` and `chat` have in common.

use std::num::NonZeroUsize;
use std::path::Path;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Args as ClapArgs, ValueEnum};
use edkm_llama::inference::{CacheType, SamplingOptions};
use edkm_train::suggested_sampling::SuggestedSampling;

use crate::commands::Failure;

/// How tokens are chosen and where their keys and values are kept.
#[derive(Debug, ClapArgs)]
pub struct SamplingArgs {
    /// Below 1 likely tokens become likelier; 0 always takes the likeliest. Without it and those below, what the model's generation_config.json says, where
    /// it has do_sample, and else 0.8
    #[arg(long)]
    pub temperature: Option<f32>,
    /// Choose among the likeliest tokens that together have this probability; else 0.95
    #[arg(long)]
    pub top_p: Option<f32>,
    /// Choose among so many of the likeliest tokens; else among all
    #[arg(long)]
    pub top_k: Option<NonZeroUsize>,
    /// Choose among tokens that have at least this share of the likeliest one's probability; else 0
    #[arg(long)]
    pub min_p: Option<f32>,
    /// Makes tokens that were there before less likely; 1, which it is else, changes nothing
    #[arg(long)]
    pub repetition_penalty: Option<f32>,
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
    /// Refuses numbers out of range, before a model is read.
    pub fn check(&self) -> Result<(), Failure> {
        Ok(self.given().fill(SamplingOptions::default()).validate()?)
    }

    /// As the library has them: what was given, then what the model's folder suggests, then what is usual.
    pub fn options(&self, model_dir: &Path) -> Result<SamplingOptions, Failure> {
        let usual = SamplingOptions {
            seed: self.seed,
            ..SamplingOptions::default()
        };
        Ok(self.given().fill(SuggestedSampling::of_folder(model_dir)?.fill(usual)))
    }

    fn given(&self) -> SuggestedSampling {
        SuggestedSampling {
            repetition_penalty: self.repetition_penalty,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        }
    }
}
