//! Modules that compose like dfdx's own: const or run-time dimensions, tuples, dfdx's wrappers, optimizers and safetensors.

mod carried;
mod clustered_embedding;
mod clustered_linear;
mod convert;
mod rms_norm;
mod rows;
mod unbiased_clustered_linear;

pub use clustered_embedding::ClusteredEmbedding;
pub use clustered_linear::ClusteredLinear;
pub use convert::IntoClustered;
pub use rms_norm::RmsNorm;
pub use rows::RowsOf;
pub use unbiased_clustered_linear::UnbiasedClusteredLinear;

/// What `dev.build_module::<…, f32>()` takes.
pub mod builders {
    pub use super::clustered_embedding::builder::ClusteredEmbedding;
    pub use super::clustered_linear::builder::ClusteredLinear;
    pub use super::rms_norm::builder::RmsNorm;
    pub use super::unbiased_clustered_linear::builder::UnbiasedClusteredLinear;
}

use crate::ops::as_matrix;
