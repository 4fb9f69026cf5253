//! The forward pass over a batch of tokens. It reads like the paper (arXiv 2302.13971).
//!
//! Axes: N tokens, H hidden, Q all query heads, K all key heads, F intermediate, V vocabulary.
#![allow(non_snake_case)]

use edkm_kernels::{
    elementwise::add_assign,
    rms_norm,
    rotary::{self, Direction},
    swiglu,
};

use super::{
    attention::{attend, Heads},
    cache::{KvCache, Span},
    InferenceModel, InferenceProblem,
};
use crate::{config::LlamaConfig, LlamaError};

/// What a forward pass works in, for as many tokens as it was last used with.
///
/// Memory: `N x (3 H + 2 Q + 2 K + 3 F) x 4` bytes.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    /// The residual stream; after a pass the hidden states of the last layer, not yet normalised.
    pub(super) x_NH: Vec<f32>,
    normed_NH: Vec<f32>,
    branch_NH: Vec<f32>,
    q_NQ: Vec<f32>,
    attended_NQ: Vec<f32>,
    k_NK: Vec<f32>,
    v_NK: Vec<f32>,
    gate_NF: Vec<f32>,
    up_NF: Vec<f32>,
    active_NF: Vec<f32>,
}

impl Workspace {
    /// Tokens of the last pass.
    pub(super) fn tokens(&self, config: &LlamaConfig) -> usize {
        self.x_NH.len() / config.hidden_size
    }

    fn resize(&mut self, config: &LlamaConfig, tokens: usize) {
        let (hidden, query) = (config.hidden_size, config.query_size());
        let (key, wide) = (config.key_value_size(), config.intermediate_size);
        for (buffer, width) in [
            (&mut self.x_NH, hidden),
            (&mut self.normed_NH, hidden),
            (&mut self.branch_NH, hidden),
            (&mut self.q_NQ, query),
            (&mut self.attended_NQ, query),
            (&mut self.k_NK, key),
            (&mut self.v_NK, key),
            (&mut self.gate_NF, wide),
            (&mut self.up_NF, wide),
            (&mut self.active_NF, wide),
        ] {
            buffer.resize(tokens * width, 0.0);
        }
    }
}

impl InferenceModel {
    /// Checks that each token has a row in the embedding.
    pub(super) fn check_tokens(&self, tokens: &[u32]) -> Result<(), LlamaError> {
        let vocabulary = self.config().vocab_size;
        match tokens.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(LlamaError::Inference(InferenceProblem::Token { token, vocabulary })),
            None => Ok(()),
        }
    }

    /// Runs checked tokens through all layers; their hidden states are then in the workspace.
    ///
    /// `spans` cover the tokens in order; their positions are within `rotary` and the cache.
    pub(super) fn forward(
        &self,
        tokens: &[u32],
        spans: &[Span],
        rotary: &rotary::Table,
        cache: &mut KvCache,
        workspace: &mut Workspace,
    ) {
        let config = self.config();
        let n = tokens.len();
        let eps = config.rms_norm_eps as f32;
        let heads = Heads {
            queries: config.num_attention_heads,
            keys: config.num_key_value_heads,
            dim: config.head_dim,
        };
        workspace.resize(config, n);
        let Workspace {
            x_NH,
            normed_NH,
            branch_NH,
            q_NQ,
            attended_NQ,
            k_NK,
            v_NK,
            gate_NF,
            up_NF,
            active_NF,
        } = workspace;

        for (&token, x) in tokens.iter().zip(x_NH.chunks_exact_mut(config.hidden_size)) {
            self.shared.embedding.row_into(token as usize, x);
        }
        for (index, layer) in self.shared.layers.iter().enumerate() {
            rms_norm::forward(x_NH, &layer.input_norm, eps, normed_NH);
            layer.query.apply(normed_NH, n, q_NQ);
            layer.key.apply(normed_NH, n, k_NK);
            layer.value.apply(normed_NH, n, v_NK);
            if let Some(norms) = &layer.head_norms {
                // what attention will write is not read before
                norm_heads(q_NQ, &norms.query, eps, attended_NQ);
                norm_heads(k_NK, &norms.key, eps, attended_NQ);
            }
            for span in spans {
                turn(rotary, q_NQ, config.query_size(), heads.queries, span);
                turn(rotary, k_NK, config.key_value_size(), heads.keys, span);
                let tokens = span.tokens.start * config.key_value_size()..span.tokens.end * config.key_value_size();
                cache.write(index, span.own, &k_NK[tokens.clone()], &v_NK[tokens]);
            }
            attend(cache.layer(index), heads, spans, q_NQ, attended_NQ);
            layer.output.apply(attended_NQ, n, branch_NH);
            add_assign(x_NH, branch_NH);

            rms_norm::forward(x_NH, &layer.post_attention_norm, eps, normed_NH);
            layer.gate.apply(normed_NH, n, gate_NF);
            layer.up.apply(normed_NH, n, up_NF);
            swiglu::forward(gate_NF, up_NF, active_NF);
            layer.down.apply(active_NF, n, branch_NH);
            add_assign(x_NH, branch_NH);
        }
    }

    /// Logits of hidden states: `x` is `[rows, H]` as [`forward`](Self::forward) left it, `logits` `[rows, V]`. `normed` is
    /// worked in.
    pub(super) fn project(&self, x_NH: &[f32], normed_NH: &mut Vec<f32>, logits_NV: &mut [f32]) {
        normed_NH.resize(x_NH.len(), 0.0);
        rms_norm::forward(x_NH, &self.shared.norm, self.config().rms_norm_eps as f32, normed_NH);
        self.head()
            .apply(normed_NH, x_NH.len() / self.config().hidden_size, logits_NV);
    }
}

/// Normalises each head of `x`; `free`, of as many numbers at least, is worked in.
fn norm_heads(x: &mut [f32], weight: &[f32], eps: f32, free: &mut [f32]) {
    let copy = &mut free[..x.len()];
    copy.copy_from_slice(x);
    rms_norm::forward(copy, weight, eps, x);
}

/// Turns the heads of a span's tokens by their positions.
fn turn(table: &rotary::Table, x: &mut [f32], width: usize, heads: usize, span: &Span) {
    let x = &mut x[span.tokens.start * width..span.tokens.end * width];
    rotary::apply(table, x, heads, span.tokens.len(), span.position(), Direction::Forward);
}
