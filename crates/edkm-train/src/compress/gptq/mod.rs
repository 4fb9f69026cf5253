//! GPTQ (arXiv 2210.17323) onto palettes: each layer is rounded so that its outputs on calibration text stay as they were, and the layers behind it
//! are given what the rounded ones say.
#![allow(non_snake_case)]

mod cholesky;
mod factor;
mod hessian;
mod model;
mod quantize;
mod refit;
#[cfg(test)]
mod tests;

pub use hessian::Hessian;
pub(super) use model::gptq;
pub use quantize::{quantize, quantize_scaled, Quantized};

/// The palette that weights are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Levels {
    /// 2^bits evenly spaced levels between the smallest and the largest weight of the group, as GPTQ has them.
    EvenlySpaced,
    /// The k-means of the group, weights counted by how much their input is used; then fitted to the assignment, by turns.
    KMeans,
}

/// Why a layer could not be rounded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GptqError {
    /// The Hessian is that of another layer.
    #[error("the Hessian has {got} inputs, the weight {expected}")]
    Inputs {
        /// Inputs of the weight.
        expected: usize,
        /// Inputs of the Hessian.
        got: usize,
    },
    /// The layer's inputs on the calibration text are not finite.
    #[error("the inputs on the calibration text are not finite, or too large to square; look at the model's weights")]
    NotPositiveDefinite,
    /// Evenly spaced levels are numbers, not vectors.
    #[error("evenly spaced levels for vectors of {len} weights: choose vectors of 1, or a k-means palette")]
    EvenVectors {
        /// Weights of a vector.
        len: usize,
    },
    /// A weight cannot be clustered.
    #[error(transparent)]
    Cluster(#[from] edkm_cluster::ClusterError),
    /// A palette cannot be packed.
    #[error(transparent)]
    Palette(#[from] edkm_palette::PaletteError),
}
