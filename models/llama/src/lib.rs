//! LLaMA with clustered weights: configuration, Hugging Face checkpoints, the model.
//!
//! - [`config`]: `config.json`, read strictly and written back whole.
//! - [`names`]: the one table of parameter names, shapes and roles.
//! - [`rope`]: the frequencies of the rotary embedding.
//! - [`checkpoint`]: folders of safetensors, read without trust and written without half-states.
//! - [`files`]: files that are replaced in one step.
//! - [`inference`]: running a model, packed or not: generation and log likelihoods.

pub mod checkpoint;
pub mod config;
mod error;
pub mod files;
pub mod inference;
mod json;
pub mod model;
pub mod names;
pub mod rope;

pub use error::{LlamaError, MisshapenTensor};
