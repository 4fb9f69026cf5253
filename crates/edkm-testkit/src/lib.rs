//! Oracles, tolerances and golden files for the project's own tests.
//!
//! * [`tolerance`]: comparisons that fail on NaN and measure against the largest reference value.
//! * [`golden`]: the folders with golden files, models and data, which may be absent; reading of golden safetensors files.
//! * [`mutations`]: damaged inputs for decoders.
//! * [`dkm`]: slow float64 differentiable k-means straight from its definition, forward and backward.

pub mod dkm;
pub mod golden;
pub mod mutations;
mod random;
pub mod tolerance;

pub use random::random;
pub use tolerance::{assert_bitwise_equal, assert_close, largest_error};
