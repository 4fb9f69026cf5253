//! Tiles of queries, keys and scores, and how they are packed.

use crate::{lanes::dispatch, transpose::Transposed};
use pulp::Simd;
use std::ops::Range;

/// Queries in a tile.
pub(super) const QUERIES: usize = 128;
/// Keys in a tile. Divides [`QUERIES`].
pub(super) const KEYS: usize = 64;
/// Queries that are skipped together where the diagonal cuts a tile; also how far vectors of AVX-512 are unrolled.
pub(super) const STEP: usize = 32;
/// From one row of a tile of scores to the next. Not a power of two, or the rows would compete for the same few sets of the
/// first-level cache.
pub(super) const STRIDE: usize = QUERIES + 16;

/// One number for each query of a tile.
pub(super) type PerQuery = [f32; QUERIES];

/// From one packed row of a head to the next: whole vectors, and not a power of two.
pub(super) fn head_stride(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16) + 16
}

/// `[D, queries]`, rows [`STRIDE`] apart: the transpose of the rows of a head, which lie `stride` apart in `from`. Queries
/// beyond `count`, up to the next whole step, become 0.
pub(super) fn pack_transposed(from: &[f32], stride: usize, count: usize, head_dim: usize, to: &mut [f32]) {
    Transposed {
        from,
        stride,
        width: count,
        depth: head_dim,
    }
    .write(to, STRIDE);
    for to in to.chunks_exact_mut(STRIDE).take(head_dim) {
        to[count..count.next_multiple_of(STEP)].fill(0.0);
    }
}

/// `[rows, D]`, rows [`head_stride`] apart, padded to whole vectors with 0: rows that lie `stride` apart in `from`.
pub(super) fn pack_rows(from: &[f32], stride: usize, rows: usize, head_dim: usize, to: &mut [f32]) {
    for (row, to) in to.chunks_exact_mut(head_stride(head_dim)).take(rows).enumerate() {
        to[..head_dim].copy_from_slice(&from[row * stride..][..head_dim]);
        to[head_dim..].fill(0.0);
    }
}

/// x *= factor.
pub(super) fn scale(x: &mut [f32], factor: f32) {
    dispatch(
        #[inline(always)]
        || x.iter_mut().for_each(|x| *x *= factor),
    );
}

/// The first two vectors of a slice.
#[inline(always)]
pub(super) fn load<S: Simd>(from: &[f32]) -> [S::f32s; 2] {
    let vectors = S::as_simd_f32s(&from[..2 * S::F32_LANES]).0;
    [vectors[0], vectors[1]]
}

/// Writes the first two vectors of a slice.
#[inline(always)]
pub(super) fn store<S: Simd>(to: &mut [f32], vectors: [S::f32s; 2]) {
    let to = S::as_mut_simd_f32s(&mut to[..2 * S::F32_LANES]).0;
    (to[0], to[1]) = (vectors[0], vectors[1]);
}

/// A tile of scores: `keys`, as positions in the sequence, by `columns` of a tile of queries.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scores {
    pub(super) keys: Range<usize>,
    pub(super) columns: Range<usize>,
    /// The position of the first query of the tile of queries.
    first_query: usize,
}

impl Scores {
    /// What `queries` (as positions; a whole tile, or what is left of the sequence) see of `keys`, a tile of keys that do
    /// not go beyond them: one tile of scores, or two where the diagonal cuts it, without those steps of columns that see
    /// nothing.
    pub(super) fn visible(keys: Range<usize>, queries: Range<usize>) -> impl Iterator<Item = Scores> {
        let first_query = queries.start;
        let begin = keys.start.saturating_sub(first_query) / STEP * STEP;
        let end = queries.len().next_multiple_of(STEP);
        // Columns that see every key, from the first whole step on.
        let all = keys
            .end
            .saturating_sub(first_query + STEP)
            .next_multiple_of(STEP)
            .clamp(begin, end);
        let partly = (begin..all).step_by(STEP).map({
            let keys = keys.clone();
            move |step| Scores {
                keys: keys.start..keys.end.min(first_query + step + STEP),
                columns: step..step + STEP,
                first_query,
            }
        });
        partly.chain((all < end).then_some(Scores {
            keys,
            columns: all..end,
            first_query,
        }))
    }

    /// Minus infinity where a query does not see a key.
    pub(super) fn mask(&self, scores: &mut [f32]) {
        for (key, row) in self.keys.clone().zip(scores.chunks_exact_mut(STRIDE)) {
            let seen_from = key.saturating_sub(self.first_query).min(self.columns.end);
            if seen_from > self.columns.start {
                row[self.columns.start..seen_from].fill(f32::NEG_INFINITY);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every query and key that see each other are in exactly one tile of scores, and few others are.
    #[test]
    fn tiles_of_scores_cover_what_is_visible() {
        for (seq, first) in [(40, 0), (128, 0), (200, 128), (256, 128), (129, 128), (300, 256)] {
            let queries = first..seq.min(first + QUERIES);
            let mut times = vec![0; queries.len().next_multiple_of(STEP) * queries.end];
            for key in (0..queries.end).step_by(KEYS) {
                for scores in Scores::visible(key..queries.end.min(key + KEYS), queries.clone()) {
                    for column in scores.columns {
                        for key in scores.keys.clone() {
                            times[column * queries.end + key] += 1;
                        }
                    }
                }
            }
            for (i, &times) in times.iter().enumerate() {
                let (query, key) = (first + i / queries.end, i % queries.end);
                let expected = if key <= query { times == 1 } else { times <= 1 };
                assert!(expected || query >= seq, "query {query}, key {key}: {times} times");
                assert!(
                    times == 0 || key < (query / STEP + 1) * STEP,
                    "query {query}, key {key} is far from the diagonal"
                );
            }
        }
    }
}
