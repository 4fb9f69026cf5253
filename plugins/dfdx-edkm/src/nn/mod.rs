//! Modules that compose like dfdx's own: const or run-time dimensions, tuples, dfdx's wrappers, optimizers and safetensors.

mod carried;
mod clustered_embedding;
mod clustered_linear;
mod convert;
mod into_packed;
mod packed;
mod rms_norm;
mod rows;
mod unbiased_clustered_linear;

pub use clustered_embedding::ClusteredEmbedding;
pub use clustered_linear::ClusteredLinear;
pub use convert::IntoClustered;
pub use into_packed::IntoPacked;
pub use packed::{PackedEmbedding, PackedLinear};
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

use dfdx::prelude::*;

use crate::device::DeviceMemory;
use crate::ops::{as_matrix, in_order_as, Matrix};

/// A weight as the ops take it; its gradient comes to it however its numbers lie.
#[allow(clippy::type_complexity)]
fn parameter_matrix<R: Dim, C: Dim, D: DeviceMemory, T: Tape<f32, D>>(
    weight: &Tensor<(R, C), f32, D>,
    tape: T,
) -> Result<(Matrix<D>, T), D::Err> {
    let (rows, cols) = *weight.shape();
    in_order_as(weight, (rows.size(), cols.size()), tape)
}
