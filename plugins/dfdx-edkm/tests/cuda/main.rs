//! Every op of the plugin on GPU 0, beside the CPU. Built with the feature `cuda` alone: there is no skipping.

mod clustered_weight;
mod common;
mod golden;
mod half_tensor;
mod memory;
mod net;
mod ops;
mod optimizer;
mod store;
mod unshared;

use common::{gpu, gradient, random};
