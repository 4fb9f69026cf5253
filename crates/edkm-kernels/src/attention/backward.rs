//! The backward pass: for a range of keys of one key/value head, all queries that see them.
#![allow(unsafe_code)]

use super::{
    tile::{mask_diagonal, pack_transposed, product, Left, PerQuery, ALIGN, KEYS, QUERIES},
    Dims,
};
use crate::{
    check,
    disjoint::DisjointRows,
    elementwise::{self, exp},
    lanes::{dispatch, dot},
    matmul::Accumulate,
};
use rayon::prelude::*;

/// Items of work below which the keys of a head are split into segments.
const ENOUGH_ITEMS: usize = 16;
/// Tiles of keys that a segment holds at least.
const SMALLEST_SEGMENT: usize = 2;

/// Adds the gradients of `q`, `k` and `v` to `grad_q [B, S, A, D]`, `grad_k` and `grad_v [B, S, G, D]`, given what
/// [`forward`](super::forward) read and wrote and `grad_out [B, S, A, D]`.
///
/// The terms of the query heads that share a key/value head are added in the order of the heads.
///
/// Transient memory: (4 D + 128) x 256 + 2 S D x 4 bytes for each thread; and when B G < 16, so that keys are split into
/// P <= 16 / (B G) segments, P x `q`'s bytes.
///
/// # Panics
///
/// If a slice's length does not match the axes, or the key/value heads do not divide the query heads.
pub fn backward(
    dims: &Dims,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    lse: &[f32],
    grad_out: &[f32],
    grad_q: &mut [f32],
    grad_k: &mut [f32],
    grad_v: &mut [f32],
) {
    dims.check(q, k, v);
    check::len("out [B, S, A, D]", out, dims.query_len());
    check::len("lse [B, A, S]", lse, dims.lse_len());
    check::len("grad_out [B, S, A, D]", grad_out, dims.query_len());
    check::len("grad_q [B, S, A, D]", grad_q, dims.query_len());
    check::len("grad_k [B, S, G, D]", grad_k, dims.key_len());
    check::len("grad_v [B, S, G, D]", grad_v, dims.key_len());
    if dims.is_empty() {
        return;
    }
    let dims = *dims;
    let inputs = Inputs {
        dims,
        q,
        k,
        v,
        out,
        lse,
        grad_out,
    };
    let pairs = dims.batch * dims.kv_heads;
    let blocks = dims.blocks();
    let segment = blocks.div_ceil(ENOUGH_ITEMS.div_ceil(pairs)).max(SMALLEST_SEGMENT);
    let segments = blocks.div_ceil(segment);

    // With several segments, each leaves its part of the gradient of q in its own buffer; they are added in order below.
    let mut partial = if segments > 1 {
        vec![0.0f32; segments * grad_q.len()]
    } else {
        Vec::new()
    };
    let to_q: Vec<DisjointRows<'_>> = if segments > 1 {
        partial.chunks_exact_mut(grad_q.len()).map(DisjointRows::new).collect()
    } else {
        vec![DisjointRows::new(grad_q)]
    };
    let (to_k, to_v) = (DisjointRows::new(grad_k), DisjointRows::new(grad_v));
    // Early segments are seen by the most queries; they come first, so that threads end together.
    (0..segments * pairs).into_par_iter().with_max_len(1).for_each_init(
        || Scratch::new(dims.head_dim, segment.min(blocks) * KEYS),
        |scratch, item| {
            let (index, pair) = (item / pairs, item % pairs);
            let blocks = index * segment..blocks.min((index + 1) * segment);
            let item = Item {
                b: pair / dims.kv_heads,
                g: pair % dims.kv_heads,
                blocks,
            };
            inputs.item(scratch, &item, &to_q[index], &to_k, &to_v);
        },
    );
    drop(to_q);
    if segments > 1 {
        for partial in partial.chunks_exact(grad_q.len()) {
            elementwise::add_assign(grad_q, partial);
        }
    }
}

struct Inputs<'a> {
    dims: Dims,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: &'a [f32],
    lse: &'a [f32],
    grad_out: &'a [f32],
}

/// A range of tiles of keys of head `g` of sequence `b`.
struct Item {
    b: usize,
    g: usize,
    blocks: std::ops::Range<usize>,
}

/// What a thread works in. "Rows" are padded to a multiple of [`ALIGN`] numbers.
struct Scratch {
    /// Queries times scale: `[D, QUERIES]`, and as rows `[QUERIES, D]`.
    q: Vec<PerQuery>,
    q_rows: Vec<f32>,
    /// Gradient of the output, likewise.
    grad_out: Vec<PerQuery>,
    grad_out_rows: Vec<f32>,
    /// Gradient of the queries over scale, `[D, QUERIES]`.
    grad_q: Vec<PerQuery>,
    /// Scores, then probabilities, `[KEYS, QUERIES]`.
    probabilities: Vec<PerQuery>,
    /// Gradient of the probabilities, then of the scores, `[KEYS, QUERIES]`.
    grad_scores: Vec<PerQuery>,
    /// Gradients of the keys and values of the item, as rows `[keys, D]`.
    grad_k: Vec<f32>,
    grad_v: Vec<f32>,
    /// Numbers in a padded row.
    width: usize,
}

impl Scratch {
    fn new(head_dim: usize, keys: usize) -> Self {
        let tile = |rows| vec![[0.0; QUERIES]; rows];
        let width = head_dim.next_multiple_of(ALIGN);
        Scratch {
            q: tile(head_dim),
            q_rows: vec![0.0; QUERIES * width],
            grad_out: tile(head_dim),
            grad_out_rows: vec![0.0; QUERIES * width],
            grad_q: tile(head_dim),
            probabilities: tile(KEYS),
            grad_scores: tile(KEYS),
            grad_k: vec![0.0; keys * width],
            grad_v: vec![0.0; keys * width],
            width,
        }
    }
}

impl Inputs<'_> {
    fn item(
        &self,
        scratch: &mut Scratch,
        item: &Item,
        to_q: &DisjointRows<'_>,
        to_k: &DisjointRows<'_>,
        to_v: &DisjointRows<'_>,
    ) {
        let dims = &self.dims;
        scratch.grad_k.fill(0.0);
        scratch.grad_v.fill(0.0);
        let first_head = item.g * dims.group();
        for a in first_head..first_head + dims.group() {
            for block in item.blocks.start..dims.blocks() {
                self.query_block(scratch, item, a, block, to_q);
            }
        }
        let first = item.blocks.start * KEYS;
        let last = dims.seq.min(item.blocks.end * KEYS);
        for (grads, to) in [(&scratch.grad_k, to_k), (&scratch.grad_v, to_v)] {
            for (key, grad) in (first..last).zip(grads.chunks_exact(scratch.width)) {
                // SAFETY: the key/value head of a position belongs to one (sequence, head, segment): one item of work.
                let row = unsafe { to.row(dims.key_at(item.b, key, item.g), dims.head_dim) };
                row.iter_mut().zip(grad).for_each(|(to, &grad)| *to += grad);
            }
        }
    }

    /// Queries of tile `block` of head `a` against those keys of the item that they see.
    fn query_block(&self, scratch: &mut Scratch, item: &Item, a: usize, block: usize, to_q: &DisjointRows<'_>) {
        let dims = &self.dims;
        let (d, stride, width) = (dims.head_dim, dims.key_stride(), scratch.width);
        let first = block * QUERIES;
        let queries = QUERIES.min(dims.seq - first);
        let at = dims.query_at(item.b, first, a);
        let between = dims.heads * d;
        let s = scratch;
        pack_transposed(&self.q[at..], between, queries, dims.scale, &mut s.q);
        pack_transposed(&self.grad_out[at..], between, queries, 1.0, &mut s.grad_out);
        pack_rows(&self.q[at..], between, queries, d, width, dims.scale, &mut s.q_rows);
        pack_rows(
            &self.grad_out[at..],
            between,
            queries,
            d,
            width,
            1.0,
            &mut s.grad_out_rows,
        );

        // Queries beyond the sequence have q = 0 and grad_out = 0, and add nothing with any finite log-sum-exp.
        let (mut lse, mut delta) = ([0.0; QUERIES], [0.0; QUERIES]);
        lse[..queries].copy_from_slice(&self.lse[(item.b * dims.heads + a) * dims.seq + first..][..queries]);
        for (q, delta) in delta[..queries].iter_mut().enumerate() {
            let at = at + q * between;
            *delta = dispatch(
                #[inline(always)]
                || dot(&self.grad_out[at..][..d], &self.out[at..][..d]),
            );
        }

        s.grad_q.as_flattened_mut().fill(0.0);
        for key_block in item.blocks.start..item.blocks.end.min(block + 1) {
            let key = key_block * KEYS;
            let keys = KEYS.min(dims.seq - key);
            let k = &self.k[dims.key_at(item.b, key, item.g)..];
            let v = &self.v[dims.key_at(item.b, key, item.g)..];
            let by_rows = |slice| Left {
                slice,
                between_rows: stride,
                between_columns: 1,
            };
            let probabilities = &mut s.probabilities[..keys];
            let grad_scores = &mut s.grad_scores[..keys];
            let (p, ds) = (probabilities.as_flattened_mut(), grad_scores.as_flattened_mut());
            product(
                keys,
                QUERIES,
                d,
                by_rows(k),
                s.q.as_flattened(),
                p,
                Accumulate::Overwrite,
            );
            product(
                keys,
                QUERIES,
                d,
                by_rows(v),
                s.grad_out.as_flattened(),
                ds,
                Accumulate::Overwrite,
            );
            if key_block == block {
                mask_diagonal(probabilities, f32::NEG_INFINITY);
            }
            softmax_backward(probabilities, grad_scores, &lse, &delta);

            let (p, ds) = (probabilities.as_flattened(), grad_scores.as_flattened());
            let by_keys = |slice| Left {
                slice,
                between_rows: QUERIES,
                between_columns: 1,
            };
            let rows = (key_block - item.blocks.start) * KEYS * width..;
            let (to_k, to_v) = (&mut s.grad_k[rows.clone()], &mut s.grad_v[rows]);
            product(
                keys,
                width,
                queries,
                by_keys(p),
                &s.grad_out_rows,
                to_v,
                Accumulate::Add,
            );
            product(keys, width, queries, by_keys(ds), &s.q_rows, to_k, Accumulate::Add);
            let k = Left {
                slice: k,
                between_rows: 1,
                between_columns: stride,
            };
            product(d, QUERIES, keys, k, ds, s.grad_q.as_flattened_mut(), Accumulate::Add);
        }

        for query in 0..queries {
            // SAFETY: the query heads that share this key/value head belong to this item of work, in this segment's buffer.
            let row = unsafe { to_q.row(at + query * between, d) };
            for (to, grad) in row.iter_mut().zip(s.grad_q.iter()) {
                *to = grad[query].mul_add(dims.scale, *to);
            }
        }
    }
}

/// Scores to probabilities p = e^(score - lse), and gradients of probabilities to those of scores: p (dp - delta).
fn softmax_backward(scores: &mut [PerQuery], grads: &mut [PerQuery], lse: &PerQuery, delta: &PerQuery) {
    dispatch(
        #[inline(always)]
        || {
            for (scores, grads) in scores.iter_mut().zip(grads) {
                for q in 0..QUERIES {
                    scores[q] = exp(scores[q] - lse[q]);
                    grads[q] = scores[q] * (grads[q] - delta[q]);
                }
            }
        },
    );
}

/// to `[QUERIES, width]` = `scale` x rows of D numbers, `stride` apart; what is beyond D or `count` stays 0.
fn pack_rows(from: &[f32], stride: usize, count: usize, d: usize, width: usize, scale: f32, to: &mut [f32]) {
    for (q, to) in to.chunks_exact_mut(width).take(count).enumerate() {
        for (to, &from) in to[..d].iter_mut().zip(&from[q * stride..]) {
            *to = from * scale;
        }
    }
}
