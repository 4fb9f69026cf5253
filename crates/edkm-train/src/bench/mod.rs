//! What `edkm bench` measures beyond single kernels.
//!
//! - [`stock_layer`]: a decoder layer of dfdx's own ops, to compare with.

pub mod stock_layer;
