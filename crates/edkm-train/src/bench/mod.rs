//! What `edkm bench` measures beyond single kernels.
//!
//! - [`ablation`]: what the layers of the store take off plain DKM.
//! - [`stock_layer`]: a decoder layer of dfdx's own ops, to compare with.

pub mod ablation;
pub mod stock_layer;
