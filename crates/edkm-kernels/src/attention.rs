//! Causal grouped-query attention, tiled over queries and keys: no S x S map is ever held.
//!
//! Queries, keys and values stay as the projections leave them, `[B, S, heads, D]`: no transposed copies. Forward keeps the
//! log-sum-exp of each query's scores; backward computes the scores again from it. Tiles above the diagonal are skipped.
//!
//! All tiles are held *keys by queries*, so that a vector register holds one key's scores for neighbouring queries: softmax
//! is then arithmetic between registers, and a tile serves as right side of the product that follows without being moved.
//!
//! # Source
//!
//! T. Dao and others, FlashAttention, arXiv 2205.14135 (online softmax by tiles, recomputation in backward); J. Ainslie and
//! others, GQA, arXiv 2305.13245 (grouped queries).

mod backward;
mod decode;
mod forward;
mod segments;
mod tile;

use crate::check;

pub use backward::backward;
pub use decode::decode_step;
pub use forward::forward;
pub use segments::{backward_of_segments, forward_of_segments, Segments};

/// The axes of attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dims {
    /// Sequences: B.
    pub batch: usize,
    /// Positions of a sequence: S.
    pub seq: usize,
    /// Query heads: A.
    pub heads: usize,
    /// Key/value heads: G, which divides A. Query head a reads key/value head a / (A / G).
    pub kv_heads: usize,
    /// Numbers in a head: D.
    pub head_dim: usize,
    /// Factor of the scores before softmax, usually 1 / sqrt(D).
    pub scale: f32,
}

/// What no slice has the length of where it is too large.
fn product<const N: usize>(sizes: [usize; N]) -> usize {
    sizes.into_iter().fold(1, usize::saturating_mul)
}

impl Dims {
    /// Numbers in `q`, `out` and their gradients: `[B, S, A, D]`.
    #[must_use]
    pub fn query_len(&self) -> usize {
        product([self.batch, self.seq, self.heads, self.head_dim])
    }

    /// Numbers in `k`, `v` and their gradients: `[B, S, G, D]`.
    #[must_use]
    pub fn key_len(&self) -> usize {
        product([self.batch, self.seq, self.kv_heads, self.head_dim])
    }

    /// Numbers in `lse`: `[B, A, S]`.
    #[must_use]
    pub fn lse_len(&self) -> usize {
        product([self.batch, self.heads, self.seq])
    }

    /// Query heads that share a key/value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Where query head `a` of position `s` of sequence `b` begins.
    fn query_at(&self, b: usize, s: usize, a: usize) -> usize {
        ((b * self.seq + s) * self.heads + a) * self.head_dim
    }

    /// Where key/value head `g` of position `s` of sequence `b` begins.
    fn key_at(&self, b: usize, s: usize, g: usize) -> usize {
        ((b * self.seq + s) * self.kv_heads + g) * self.head_dim
    }

    /// From one position of a key/value head to the next.
    fn key_stride(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Tiles of queries along the sequence.
    fn query_tiles(&self) -> usize {
        self.seq.div_ceil(tile::QUERIES)
    }

    fn is_empty(&self) -> bool {
        self.query_len() == 0
    }

    #[track_caller]
    fn check(&self, q: &[f32], k: &[f32], v: &[f32]) {
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "{} query heads cannot share {} key/value heads evenly",
            self.heads,
            self.kv_heads
        );
        check::len("q [B, S, A, D]", q, self.query_len());
        check::len("k [B, S, G, D]", k, self.key_len());
        check::len("v [B, S, G, D]", v, self.key_len());
    }

    /// Also of what forward gives, which backward takes.
    #[track_caller]
    fn check_forward(&self, [q, k, v]: [&[f32]; 3], out: &[f32], lse: &[f32]) {
        self.check(q, k, v);
        check::len("out [B, S, A, D]", out, self.query_len());
        check::len("lse [B, A, S]", lse, self.lse_len());
    }

    #[track_caller]
    fn check_gradients(&self, grad_out: &[f32], grad_q: &[f32], grad_k: &[f32], grad_v: &[f32]) {
        check::len("grad_out [B, S, A, D]", grad_out, self.query_len());
        check::len("grad_q [B, S, A, D]", grad_q, self.query_len());
        check::len("grad_k [B, S, G, D]", grad_k, self.key_len());
        check::len("grad_v [B, S, G, D]", grad_v, self.key_len());
    }
}

#[cfg(test)]
mod tests;
