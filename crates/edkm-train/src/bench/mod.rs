//! What `edkm bench` measures beyond single kernels.
//!
//! - [`ablation`]: what the layers of the store take off plain DKM.
//! - [`stock_layer`]: a decoder layer of dfdx's own ops, to compare with.
//! - [`layer`]: time and memory of a decoder layer, forward and backward.
//! - [`saved`]: what the layer keeps for backward, by store and recomputation.
//! - [`generate`]: generation with a packed model, beside dfdx's f32 products.
//! - [`step`]: a whole training step, and where its time goes ([`phases`]).
//! - [`configurations`]: models known by name.

pub mod ablation;
pub mod configurations;
pub mod generate;
pub mod layer;
pub mod phases;
pub mod saved;
pub mod step;
pub mod stock_layer;

/// The middle of the times, the upper one of two.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
