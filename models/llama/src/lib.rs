//! LLaMA with clustered weights: configuration, Hugging Face checkpoints, the model.
//!
//! To train, begin with [`model::DynamicLlama::open`](model::Llama::open); to generate from a folder, with
//! [`inference::InferenceModel::open`] and [`inference::generate`].
//!
//! - [`model`]: the model that is trained, on the plugin's tapes and ops.
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
