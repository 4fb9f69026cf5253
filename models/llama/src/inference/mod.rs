//! Running a model: generation, log likelihoods, sampling.
//!
//! - [`InferenceModel`]: the weights, used as they lie in the file. Palettized matrices are never unpacked in memory.
//! - [`Session`]: a conversation with a cache of keys and values; the prompt runs as a batch, each further token alone.
//! - [`generate`]: tokens from a prompt, handed over as they come, with a [`Sampler`].
//! - [`InferenceModel::log_likelihoods`] and [`Scorer`]: what evaluation is made of.
//!
//! No automatic differentiation is involved, and nothing is kept for a backward pass. Work runs in the current rayon pool;
//! results do not depend on its size. With the feature `cuda`, `InferenceModel::on_gpu` puts a model on a GPU: all of this then runs there.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use edkm_llama::inference::{generate, CacheType, GenerateOptions, InferenceModel, Session};
//!
//! let model = InferenceModel::open("out")?;
//! let mut session = Session::new(&model, 512, CacheType::F32)?;
//! let options = GenerateOptions { max_tokens: 100, ..GenerateOptions::for_model(&model) };
//! let generation = generate(&mut session, &[1, 403], &options, |token| {
//!     println!("{token}");
//!     ControlFlow::Continue(())
//! })?;
//! println!("{:.0} tokens/s", generation.decode_tokens_per_second());
//! # Ok::<(), edkm_llama::LlamaError>(())
//! ```

mod attention;
mod cache;
mod cpu;
mod dense;
mod executor;
mod forward;
mod generate;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(not(feature = "cuda"))]
#[path = "no_gpu.rs"]
mod gpu;
mod likelihood;
mod matrix;
mod model;
mod problem;
mod random;
mod sampling;
mod session;
#[cfg(test)]
pub(crate) mod testing;

pub use cache::CacheType;
pub use dense::DenseMatrix;
pub use generate::{generate, GenerateOptions, Generation, StopReason};
#[cfg(feature = "cuda")]
pub use gpu::Precision;
pub use likelihood::{Continuation, Scorer};
pub use matrix::Matrix;
pub use model::{InferenceModel, WeightBytes};
pub use problem::InferenceProblem;
pub use random::{RandomWeights, SplitMix64};
pub use sampling::{Sampler, SamplingOptions};
pub use session::Session;
