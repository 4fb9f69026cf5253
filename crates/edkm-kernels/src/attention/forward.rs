//! The forward pass: one tile of queries at a time, over all keys before it.
#![allow(unsafe_code)]

use super::{
    tile::{mask_diagonal, pack_transposed, product, Left, PerQuery, KEYS, QUERIES},
    Dims,
};
use crate::{
    check,
    disjoint::DisjointRows,
    elementwise::exp,
    lanes::{dispatch, larger},
    matmul::Accumulate,
};
use rayon::prelude::*;

/// `out [B, S, A, D]` = attention of `q [B, S, A, D]` over `k` and `v [B, S, G, D]`, each position seeing itself and those
/// before it; `lse [B, A, S]` receives the log-sum-exp of the scaled scores, for [`backward`](super::backward).
///
/// Transient memory: (2 D + 64) x 256 bytes for each thread.
///
/// # Panics
///
/// If a slice's length does not match the axes, or the key/value heads do not divide the query heads.
pub fn forward(dims: &Dims, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32], lse: &mut [f32]) {
    dims.check(q, k, v);
    check::len("out [B, S, A, D]", out, dims.query_len());
    check::len("lse [B, A, S]", lse, dims.lse_len());
    if dims.is_empty() {
        return;
    }
    let dims = *dims;
    let inputs = Inputs { dims, q, k, v };
    let (out, lse) = (DisjointRows::new(out), DisjointRows::new(lse));
    // Late tiles see the most keys; they come first, so that threads end together.
    let blocks = dims.blocks();
    let items = (0..blocks * dims.batch * dims.heads).into_par_iter().with_max_len(1);
    items.for_each_init(
        || Scratch::new(dims.head_dim),
        |scratch, item| {
            let (block, pair) = (
                blocks - 1 - item / (dims.batch * dims.heads),
                item % (dims.batch * dims.heads),
            );
            inputs.block(scratch, pair / dims.heads, pair % dims.heads, block, &out, &lse);
        },
    );
}

struct Inputs<'a> {
    dims: Dims,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

/// What a thread works in.
struct Scratch {
    /// Queries times scale, `[D, QUERIES]`.
    q: Vec<PerQuery>,
    /// Scores, then their exponentials, `[KEYS, QUERIES]`.
    scores: Vec<PerQuery>,
    /// Output before division by the sum, `[D, QUERIES]`.
    out: Vec<PerQuery>,
}

impl Scratch {
    fn new(head_dim: usize) -> Self {
        let tile = |rows| vec![[0.0; QUERIES]; rows];
        Scratch {
            q: tile(head_dim),
            scores: tile(KEYS),
            out: tile(head_dim),
        }
    }
}

impl Inputs<'_> {
    /// Queries of tile `block` of head `a` of sequence `b`.
    fn block(
        &self,
        scratch: &mut Scratch,
        b: usize,
        a: usize,
        block: usize,
        out: &DisjointRows<'_>,
        lse: &DisjointRows<'_>,
    ) {
        let dims = &self.dims;
        let (d, g, stride) = (dims.head_dim, a / dims.group(), dims.key_stride());
        let first = block * QUERIES;
        let queries = QUERIES.min(dims.seq - first);
        let Scratch { q, scores, out: sums } = scratch;
        pack_transposed(
            &self.q[dims.query_at(b, first, a)..],
            dims.heads * d,
            queries,
            dims.scale,
            q,
        );

        let mut softmax = OnlineSoftmax::new();
        sums.as_flattened_mut().fill(0.0);
        for key_block in 0..=block {
            let key = key_block * KEYS;
            let keys = KEYS.min(dims.seq - key);
            let k = Left {
                slice: &self.k[dims.key_at(b, key, g)..],
                between_rows: stride,
                between_columns: 1,
            };
            let scores = &mut scores[..keys];
            product(
                keys,
                QUERIES,
                d,
                k,
                q.as_flattened(),
                scores.as_flattened_mut(),
                Accumulate::Overwrite,
            );
            if key_block == block {
                mask_diagonal(scores, f32::NEG_INFINITY);
            }
            softmax.add(scores, sums);
            let v = Left {
                slice: &self.v[dims.key_at(b, key, g)..],
                between_rows: 1,
                between_columns: stride,
            };
            product(
                d,
                QUERIES,
                keys,
                v,
                scores.as_flattened(),
                sums.as_flattened_mut(),
                Accumulate::Add,
            );
        }

        for query in 0..queries {
            // SAFETY: the head of a position belongs to one (sequence, head, tile), which is one item of work.
            let row = unsafe { out.row(dims.query_at(b, first + query, a), d) };
            let inverse = 1.0 / softmax.sum[query];
            for (out, sums) in row.iter_mut().zip(sums.iter()) {
                *out = sums[query] * inverse;
            }
        }
        // SAFETY: as above; these positions of this head are this item's alone.
        let lse = unsafe { lse.row((b * dims.heads + a) * dims.seq + first, queries) };
        for ((lse, max), sum) in lse.iter_mut().zip(softmax.max).zip(softmax.sum) {
            *lse = max + sum.ln();
        }
    }
}

/// For each query, the largest score so far and the sum of the exponentials of the scores less that.
struct OnlineSoftmax {
    max: PerQuery,
    sum: PerQuery,
}

impl OnlineSoftmax {
    fn new() -> Self {
        OnlineSoftmax {
            max: [f32::NEG_INFINITY; QUERIES],
            sum: [0.0; QUERIES],
        }
    }

    /// Takes in a tile of scores, replaces them by their exponentials, and rescales `sums [D, QUERIES]` to the new maximum.
    fn add(&mut self, scores: &mut [PerQuery], sums: &mut [PerQuery]) {
        dispatch(
            #[inline(always)]
            || {
                let mut max = self.max;
                for row in scores.iter() {
                    for q in 0..QUERIES {
                        max[q] = larger(max[q], row[q]);
                    }
                }
                let mut sum = [0.0f32; QUERIES];
                for row in scores.iter_mut() {
                    for q in 0..QUERIES {
                        row[q] = exp(row[q] - max[q]);
                        sum[q] += row[q];
                    }
                }
                let mut rescale = [0.0f32; QUERIES];
                for q in 0..QUERIES {
                    rescale[q] = exp(self.max[q] - max[q]);
                    self.sum[q] = self.sum[q].mul_add(rescale[q], sum[q]);
                }
                self.max = max;
                for row in sums.iter_mut() {
                    for q in 0..QUERIES {
                        row[q] *= rescale[q];
                    }
                }
            },
        );
    }
}
