//! What a forward pass on a GPU works in.
//!
//! Axes: N tokens, H hidden, Q all query heads, K all key heads, F intermediate.
#![allow(non_snake_case)]

use edkm_cuda::driver::{Gpu, GpuError};
use edkm_cuda::Array;

use crate::config::LlamaConfig;

/// What a forward pass works in, for up to so many tokens: `N x (3 H + 2 Q + 2 K + 3 F) x 4` bytes.
pub(super) struct Workspace {
    pub(super) tokens: usize,
    /// The residual stream; after a pass the hidden states of the last layer, not yet normalised.
    pub(super) x_NH: Array<Gpu, f32>,
    pub(super) normed_NH: Array<Gpu, f32>,
    pub(super) branch_NH: Array<Gpu, f32>,
    pub(super) q_NQ: Array<Gpu, f32>,
    pub(super) attended_NQ: Array<Gpu, f32>,
    pub(super) k_NK: Array<Gpu, f32>,
    pub(super) v_NK: Array<Gpu, f32>,
    pub(super) gate_NF: Array<Gpu, f32>,
    pub(super) up_NF: Array<Gpu, f32>,
    pub(super) active_NF: Array<Gpu, f32>,
}

impl Workspace {
    pub(super) fn new(gpu: &Gpu, config: &LlamaConfig, tokens: usize) -> Result<Self, GpuError> {
        let buffer = |width: usize| Array::unset(gpu, tokens * width);
        let (hidden, query) = (config.hidden_size, config.query_size());
        let (key, wide) = (config.key_value_size(), config.intermediate_size);
        Ok(Self {
            tokens,
            x_NH: buffer(hidden)?,
            normed_NH: buffer(hidden)?,
            branch_NH: buffer(hidden)?,
            q_NQ: buffer(query)?,
            attended_NQ: buffer(query)?,
            k_NK: buffer(key)?,
            v_NK: buffer(key)?,
            gate_NF: buffer(wide)?,
            up_NF: buffer(wide)?,
            active_NF: buffer(wide)?,
        })
    }

    pub(super) fn bytes(config: &LlamaConfig, tokens: usize) -> usize {
        let (hidden, query) = (config.hidden_size, config.query_size());
        let (key, wide) = (config.key_value_size(), config.intermediate_size);
        tokens * (3 * hidden + 2 * query + 2 * key + 3 * wide) * 4
    }
}
