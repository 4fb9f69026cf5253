//! Oracles, tolerances and golden files for the project's own tests.
//!
//! * [`tolerance`]: comparisons that fail on NaN and measure against the largest reference value.
//! * [`golden`]: the folders with golden files, models and data, which may be absent; reading of golden safetensors files.
//! * [`skipped()`]: the line of a test that cannot be made here.
//! * [`mutations`]: damaged inputs for decoders.
//! * [`dkm`]: slow float64 differentiable k-means straight from its definition, forward and backward.

pub mod dkm;
pub mod golden;
pub mod mutations;
mod random;
mod skipped;
pub mod tolerance;

pub use random::random;
pub use skipped::skipped;
pub use tolerance::{assert_bitwise_equal, assert_close, largest_error};
