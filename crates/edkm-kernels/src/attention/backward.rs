//! The backward pass: for a range of keys of one key/value head, all queries that see them.
#![allow(unsafe_code)]

use super::{
    tile::{head_stride, load, pack_rows, pack_transposed, scale, store, PerQuery, Scores, KEYS, QUERIES, STRIDE},
    Dims,
};
use crate::{
    disjoint::DisjointRows,
    elementwise,
    exp::exp_lanes,
    lanes::dispatch,
    matmul::Accumulate,
    product::{product, Left, Matrix, ALIGN},
    scratch,
    transpose::Transposed,
};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Items of work below which the keys of a head are split into segments.
const ENOUGH_ITEMS: usize = 16;

/// Adds the gradients of `q`, `k` and `v` to `grad_q [B, S, A, D]`, `grad_k` and `grad_v [B, S, G, D]`, given what
/// [`forward`](super::forward) read and wrote and `grad_out [B, S, A, D]`.
///
/// The terms of the query heads that share a key/value head are added in the order of the heads.
///
/// Transient memory, kept by each thread for the next call: about (5 D + 128) x 600 + 4 S D x 4 bytes. When B G < 16, so
/// that keys are split into P <= 16 / (B G) segments, also P x `q`'s bytes, which are given back.
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
    dims.check_forward([q, k, v], out, lse);
    dims.check_gradients(grad_out, grad_q, grad_k, grad_v);
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
    let heads = dims.batch * dims.kv_heads;
    let tiles_in_segment = dims.query_tiles().div_ceil(ENOUGH_ITEMS.div_ceil(heads));
    let segments = dims.query_tiles().div_ceil(tiles_in_segment);
    let segment = tiles_in_segment * QUERIES;

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
    (0..segments * heads).into_par_iter().with_max_len(1).for_each(|item| {
        let (index, head) = (item / heads, item % heads);
        let keys = index * segment..dims.seq.min((index + 1) * segment);
        let item = Item {
            b: head / dims.kv_heads,
            g: head % dims.kv_heads,
            keys,
        };
        inputs.item(&item, &to_q[index], &to_k, &to_v);
    });
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

/// A range of keys of head `g` of sequence `b`.
struct Item {
    b: usize,
    g: usize,
    keys: Range<usize>,
}

/// The keys of an item and their gradients, `[keys, D]`.
struct ItemScratch<'a> {
    k: &'a mut [f32],
    v: &'a mut [f32],
    grad_k: &'a mut [f32],
    grad_v: &'a mut [f32],
}

struct TileScratch<'a> {
    /// Queries times scale: `[D, QUERIES]`, and as `[QUERIES, D]`.
    q: &'a mut [f32],
    q_rows: &'a mut [f32],
    /// Gradient of the output, likewise.
    grad_out: &'a mut [f32],
    grad_out_rows: &'a mut [f32],
    /// Gradient of the queries over scale, likewise.
    grad_q: &'a mut [f32],
    grad_q_rows: &'a mut [f32],
    /// Scores, then probabilities, `[KEYS, QUERIES]`.
    probabilities: &'a mut [f32],
    /// Gradient of the probabilities, then of the scores, `[KEYS, QUERIES]`.
    grad_scores: &'a mut [f32],
}

impl Inputs<'_> {
    fn item(&self, item: &Item, to_q: &DisjointRows<'_>, to_k: &DisjointRows<'_>, to_v: &DisjointRows<'_>) {
        let dims = &self.dims;
        let (d, width) = (dims.head_dim, head_stride(dims.head_dim));
        let keys = item.keys.len();
        let (rows, by_query, by_rows, scores) = (keys * width, d * STRIDE, QUERIES * width, KEYS * STRIDE);
        let lengths = [
            rows, rows, rows, rows, by_query, by_rows, by_query, by_rows, by_query, by_rows, scores, scores,
        ];
        scratch::with(lengths, |buffers| {
            let [k, v, grad_k, grad_v, q, q_rows, grad_out, grad_out_rows, grad_q, grad_q_rows, probabilities, grad_scores] =
                buffers;
            let at = dims.key_at(item.b, item.keys.start, item.g);
            pack_rows(&self.k[at..], dims.key_stride(), keys, d, k);
            pack_rows(&self.v[at..], dims.key_stride(), keys, d, v);
            grad_k.fill(0.0);
            grad_v.fill(0.0);
            let mut s = ItemScratch { k, v, grad_k, grad_v };
            let mut t = TileScratch {
                q,
                q_rows,
                grad_out,
                grad_out_rows,
                grad_q,
                grad_q_rows,
                probabilities,
                grad_scores,
            };
            let first_head = item.g * dims.group();
            for a in first_head..first_head + dims.group() {
                for tile in item.keys.start / QUERIES..dims.query_tiles() {
                    self.query_tile(item, &mut s, &mut t, a, tile, to_q);
                }
            }
            for (grads, to) in [(&s.grad_k, to_k), (&s.grad_v, to_v)] {
                for (key, grad) in item.keys.clone().zip(grads.chunks_exact(width)) {
                    // SAFETY: the key/value head of a position belongs to one (sequence, head, segment): one item of work.
                    let row = unsafe { to.row(dims.key_at(item.b, key, item.g), d) };
                    row.iter_mut().zip(grad).for_each(|(to, &grad)| *to += grad);
                }
            }
        });
    }

    /// Queries of tile `tile` of head `a` against those keys of the item that they see.
    fn query_tile(
        &self,
        item: &Item,
        s: &mut ItemScratch<'_>,
        t: &mut TileScratch<'_>,
        a: usize,
        tile: usize,
        to_q: &DisjointRows<'_>,
    ) {
        let dims = &self.dims;
        let (d, width) = (dims.head_dim, head_stride(dims.head_dim));
        let first = tile * QUERIES;
        let queries = QUERIES.min(dims.seq - first);
        let at = dims.query_at(item.b, first, a);
        let between = dims.heads * d;

        // The output is wanted for this only: delta = sum of out grad_out over the head.
        pack_transposed(&self.grad_out[at..], between, queries, d, t.grad_out);
        pack_transposed(&self.out[at..], between, queries, d, t.grad_q);
        let mut delta = [0.0; QUERIES];
        dispatch(
            #[inline(always)]
            || {
                for (out, grad) in t.grad_q.chunks_exact(STRIDE).zip(t.grad_out.chunks_exact(STRIDE)) {
                    for (delta, (&out, &grad)) in delta[..queries].iter_mut().zip(out.iter().zip(grad)) {
                        *delta = out.mul_add(grad, *delta);
                    }
                }
            },
        );
        t.grad_q.fill(0.0);
        pack_transposed(&self.q[at..], between, queries, d, t.q);
        pack_rows(&self.q[at..], between, queries, d, t.q_rows);
        pack_rows(&self.grad_out[at..], between, queries, d, t.grad_out_rows);
        scale(t.q, dims.scale);
        scale(&mut t.q_rows[..queries * width], dims.scale);
        let mut lse = [0.0; QUERIES];
        lse[..queries].copy_from_slice(&self.lse[(item.b * dims.heads + a) * dims.seq + first..][..queries]);

        for key in (item.keys.start..item.keys.end.min(first + queries)).step_by(KEYS) {
            let keys = key..(key + KEYS).min(item.keys.end).min(first + queries);
            let offset = (key - item.keys.start) * width;
            let (k, v) = (Matrix::new(&s.k[offset..], width), Matrix::new(&s.v[offset..], width));
            let (to_k, to_v) = (&mut s.grad_k[offset..], &mut s.grad_v[offset..]);
            for scores in Scores::visible(keys, first..first + queries) {
                let Scores { keys, columns, .. } = &scores;
                let from = columns.start;
                let shape = (keys.len(), columns.len(), d);
                for (rows, queries, to) in [(k, &t.q, &mut t.probabilities), (v, &t.grad_out, &mut t.grad_scores)] {
                    let queries = Matrix::new(&queries[from..], STRIDE);
                    product(
                        shape,
                        Left::Rows(rows),
                        queries,
                        &mut to[from..],
                        STRIDE,
                        Accumulate::Overwrite,
                    );
                }
                softmax_backward(&scores, t.probabilities, t.grad_scores, &lse, &delta);

                // Without the queries beyond the sequence.
                let shape = (keys.len(), d.next_multiple_of(ALIGN), columns.end.min(queries) - from);
                for (by_query, rows, to) in [
                    (&t.probabilities, &t.grad_out_rows, &mut *to_v),
                    (&t.grad_scores, &t.q_rows, &mut *to_k),
                ] {
                    let by_query = Left::Rows(Matrix::new(&by_query[from..], STRIDE));
                    product(
                        shape,
                        by_query,
                        Matrix::new(&rows[from * width..], width),
                        to,
                        width,
                        Accumulate::Add,
                    );
                }
                let shape = (d, columns.len(), keys.len());
                let grads = Matrix::new(&t.grad_scores[from..], STRIDE);
                product(
                    shape,
                    Left::Columns(k),
                    grads,
                    &mut t.grad_q[from..],
                    STRIDE,
                    Accumulate::Add,
                );
            }
        }

        Transposed {
            from: t.grad_q,
            stride: STRIDE,
            width: d,
            depth: queries,
        }
        .write(t.grad_q_rows, width);
        for (query, row) in t.grad_q_rows.chunks_exact(width).take(queries).enumerate() {
            // SAFETY: the query heads that share this key/value head belong to this item of work, in this segment's buffer.
            let to = unsafe { to_q.row(at + query * between, d) };
            dispatch(
                #[inline(always)]
                || {
                    to.iter_mut()
                        .zip(row)
                        .for_each(|(to, &grad)| *to = grad.mul_add(dims.scale, *to))
                },
            );
        }
    }
}

/// Scores to probabilities p = e^(score - lse), and gradients of probabilities to those of scores: p (dp - delta).
fn softmax_backward(tile: &Scores, scores: &mut [f32], grads: &mut [f32], lse: &PerQuery, delta: &PerQuery) {
    tile.mask(scores);
    let len = tile.keys.len() * STRIDE;
    let (scores, grads) = (&mut scores[..len], &mut grads[..len]);
    Arch::new().dispatch(SoftmaxBackward {
        columns: tile.columns.clone(),
        scores,
        grads,
        lse,
        delta,
    });
}

struct SoftmaxBackward<'a> {
    columns: Range<usize>,
    scores: &'a mut [f32],
    grads: &'a mut [f32],
    lse: &'a PerQuery,
    delta: &'a PerQuery,
}

impl WithSimd for SoftmaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for column in self.columns.step_by(2 * S::F32_LANES) {
            let (lse, delta) = (load::<S>(&self.lse[column..]), load::<S>(&self.delta[column..]));
            for (scores, grads) in self
                .scores
                .chunks_exact_mut(STRIDE)
                .zip(self.grads.chunks_exact_mut(STRIDE))
            {
                let (scores, grads) = (&mut scores[column..], &mut grads[column..]);
                let (score, grad) = (load::<S>(scores), load::<S>(grads));
                let (mut p, mut ds) = (score, grad);
                for i in 0..2 {
                    p[i] = exp_lanes(simd, simd.sub_f32s(score[i], lse[i]));
                    ds[i] = simd.mul_f32s(p[i], simd.sub_f32s(grad[i], delta[i]));
                }
                store::<S>(scores, p);
                store::<S>(grads, ds);
            }
        }
    }
}
