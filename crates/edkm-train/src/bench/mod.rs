//! What `edkm bench` measures beyond single kernels.
//!
//! - [`ablation`]: what the layers of the store take off plain DKM.
//! - [`stock_layer`]: a decoder layer of dfdx's own ops, to compare with.
//! - [`layer`]: time and memory of a decoder layer, forward and backward.
//! - [`saved`]: what the layer keeps for backward, by store and recomputation.
//! - [`device_figures`]: memory and copies of such a pass on a GPU.
//! - [`generate`]: generation with a packed model, beside dfdx's f32 products.
//! - [`step`]: a whole training step, and where its time goes ([`phases`]).
//! - [`configurations`]: models known by name.

pub mod ablation;
pub mod configurations;
pub mod device_figures;
pub mod generate;
pub mod layer;
pub mod phases;
pub mod saved;
pub mod step;
pub mod stock_layer;
