//! The forward pass: one tile of queries at a time, over all keys before it.
#![allow(unsafe_code)]

/// A distance between rows, in numbers, at which 64 of them share a quarter of the first-level cache.
const COMPETING: usize = 256;

use super::{
    tile::{head_stride, load, pack_rows, pack_transposed, scale, store, PerQuery, Scores, KEYS, QUERIES, STRIDE},
    Dims,
};
use crate::{
    disjoint::DisjointRows,
    exp::exp_lanes,
    lanes::dispatch,
    matmul::Accumulate,
    product::{product, Left, Matrix},
    scratch,
    transpose::Transposed,
};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// `out [B, S, A, D]` = attention of `q [B, S, A, D]` over `k` and `v [B, S, G, D]`, each position seeing itself and those
/// before it; `lse [B, A, S]` receives the log-sum-exp of the scaled scores, for [`backward`](super::backward).
///
/// Transient memory, kept by each thread for the next call: about (3 D + 64) x 600 bytes.
///
/// # Panics
///
/// If a slice's length does not match the axes, or the key/value heads do not divide the query heads.
pub fn forward(dims: &Dims, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32], lse: &mut [f32]) {
    dims.check_forward([q, k, v], out, lse);
    if dims.is_empty() {
        return;
    }
    let dims = *dims;
    let (d, width) = (dims.head_dim, head_stride(dims.head_dim));
    let inputs = Inputs { dims, q, k, v };
    let (out, lse) = (DisjointRows::new(out), DisjointRows::new(lse));
    // Late tiles see the most keys; they come first, so that threads end together.
    let (tiles, heads) = (dims.query_tiles(), dims.batch * dims.heads);
    (0..tiles * heads).into_par_iter().with_max_len(1).for_each(|item| {
        let item = Item {
            b: item % heads / dims.heads,
            a: item % dims.heads,
            tile: tiles - 1 - item / heads,
        };
        let lengths = [
            d * STRIDE,
            KEYS * width,
            KEYS * width,
            KEYS * STRIDE,
            d * STRIDE,
            QUERIES * width,
        ];
        scratch::with(lengths, |[q, k, v, scores, sums, rows]| {
            inputs.tile(
                &item,
                Scratch {
                    q,
                    k,
                    v,
                    scores,
                    sums,
                    rows,
                },
                &out,
                &lse,
            );
        });
    });
}

struct Inputs<'a> {
    dims: Dims,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

/// A tile of queries of head `a` of sequence `b`.
struct Item {
    b: usize,
    a: usize,
    tile: usize,
}

struct Scratch<'a> {
    /// Queries times scale, `[D, QUERIES]`.
    q: &'a mut [f32],
    /// A tile of keys and one of values, `[KEYS, D]`.
    k: &'a mut [f32],
    v: &'a mut [f32],
    /// Scores, then their exponentials, `[KEYS, QUERIES]`.
    scores: &'a mut [f32],
    /// Output, before division by the sum of the exponentials, `[D, QUERIES]`; and as `[QUERIES, D]`.
    sums: &'a mut [f32],
    rows: &'a mut [f32],
}

impl Inputs<'_> {
    fn tile(&self, item: &Item, scratch: Scratch<'_>, out: &DisjointRows<'_>, lse: &DisjointRows<'_>) {
        let dims = &self.dims;
        let (d, width) = (dims.head_dim, head_stride(dims.head_dim));
        let &Item { b, a, tile } = item;
        let g = a / dims.group();
        let first = tile * QUERIES;
        let queries = QUERIES.min(dims.seq - first);
        let Scratch {
            q,
            k,
            v,
            scores,
            sums,
            rows,
        } = scratch;
        pack_transposed(&self.q[dims.query_at(b, first, a)..], dims.heads * d, queries, d, q);
        scale(q, dims.scale);
        sums.fill(0.0);

        let mut softmax = OnlineSoftmax::new();
        for key in (0..first + queries).step_by(KEYS) {
            let keys = key..(key + KEYS).min(first + queries);
            let at = dims.key_at(b, key, g);
            let k = self.tile_of_keys(&self.k[at..], keys.len(), k);
            let v = self.tile_of_keys(&self.v[at..], keys.len(), v);
            for tile in Scores::visible(keys, first..first + queries) {
                let Scores { keys, columns, .. } = &tile;
                let from = columns.start;
                let shape = (keys.len(), columns.len(), d);
                let q = Matrix::new(&q[from..], STRIDE);
                product(
                    shape,
                    Left::Rows(k),
                    q,
                    &mut scores[from..],
                    STRIDE,
                    Accumulate::Overwrite,
                );
                softmax.add(&tile, scores, sums);
                let shape = (d, columns.len(), keys.len());
                let p = Matrix::new(&scores[from..], STRIDE);
                product(shape, Left::Columns(v), p, &mut sums[from..], STRIDE, Accumulate::Add);
            }
        }

        let inverse = softmax.sum.map(f32::recip);
        dispatch(
            #[inline(always)]
            || {
                for row in sums.chunks_exact_mut(STRIDE) {
                    row.iter_mut().zip(&inverse).for_each(|(x, inverse)| *x *= inverse);
                }
            },
        );
        Transposed {
            from: sums,
            stride: STRIDE,
            width: d,
            depth: queries,
        }
        .write(rows, width);
        for (query, row) in rows.chunks_exact(width).take(queries).enumerate() {
            // SAFETY: the head of a position belongs to one (sequence, head, tile), which is one item of work.
            let out = unsafe { out.row(dims.query_at(b, first + query, a), d) };
            out.copy_from_slice(&row[..d]);
        }
        // SAFETY: as above; these positions of this head are this item's alone.
        let lse = unsafe { lse.row((b * dims.heads + a) * dims.seq + first, queries) };
        for ((lse, max), sum) in lse.iter_mut().zip(softmax.max).zip(softmax.sum) {
            *lse = max + sum.ln();
        }
    }
}

impl<'a> Inputs<'a> {
    /// Rows of a head, `[keys, D]`: as they lie, or packed where their distance would make them compete for the same few
    /// sets of the first-level cache.
    fn tile_of_keys(&self, from: &'a [f32], keys: usize, buffer: &'a mut [f32]) -> Matrix<'a> {
        let (d, stride) = (self.dims.head_dim, self.dims.key_stride());
        if !stride.is_multiple_of(COMPETING) {
            return Matrix::new(from, stride);
        }
        pack_rows(from, stride, keys, d, buffer);
        Matrix::new(buffer, head_stride(d))
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
    fn add(&mut self, tile: &Scores, scores: &mut [f32], sums: &mut [f32]) {
        tile.mask(scores);
        let scores = &mut scores[..tile.keys.len() * STRIDE];
        Arch::new().dispatch(AddTile {
            softmax: self,
            columns: tile.columns.clone(),
            scores,
            sums,
        });
    }
}

struct AddTile<'a> {
    softmax: &'a mut OnlineSoftmax,
    columns: Range<usize>,
    scores: &'a mut [f32],
    sums: &'a mut [f32],
}

impl WithSimd for AddTile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let AddTile {
            softmax,
            columns,
            scores,
            sums,
        } = self;
        for column in columns.step_by(2 * S::F32_LANES) {
            let old = load::<S>(&softmax.max[column..]);
            let mut max = old;
            for row in scores.chunks_exact(STRIDE) {
                let row = load::<S>(&row[column..]);
                // A NaN may get lost here, but not in the sum.
                max = [simd.max_f32s(max[0], row[0]), simd.max_f32s(max[1], row[1])];
            }
            let mut sum = [simd.splat_f32s(0.0); 2];
            for row in scores.chunks_exact_mut(STRIDE) {
                let [a, b] = load::<S>(&row[column..]);
                let p = [
                    exp_lanes(simd, simd.sub_f32s(a, max[0])),
                    exp_lanes(simd, simd.sub_f32s(b, max[1])),
                ];
                sum = [simd.add_f32s(sum[0], p[0]), simd.add_f32s(sum[1], p[1])];
                store::<S>(&mut row[column..], p);
            }
            let before = load::<S>(&softmax.sum[column..]);
            let mut rescale = sum;
            for i in 0..2 {
                rescale[i] = exp_lanes(simd, simd.sub_f32s(old[i], max[i]));
                sum[i] = simd.mul_add_f32s(before[i], rescale[i], sum[i]);
            }
            store::<S>(&mut softmax.sum[column..], sum);
            store::<S>(&mut softmax.max[column..], max);
            for row in sums.chunks_exact_mut(STRIDE) {
                let row = &mut row[column..];
                let [a, b] = load::<S>(row);
                store::<S>(row, [simd.mul_f32s(a, rescale[0]), simd.mul_f32s(b, rescale[1])]);
            }
        }
    }
}
