//! Attention of new tokens over the keys and values in a cache.
//!
//! One routine serves the prompt, the single token and batches of sequences: queries that read the same key head are taken up
//! to eight at a time over the blocks of the cache (see [`cache`](super::cache) for the layout), so that keys and values are
//! read once for all of them. Scores of a row are held whole: 4 bytes for each position and query, for each thread.
//! Each row is summed in one order whatever the batch and the number of threads.
#![allow(non_snake_case)]

use std::cell::Cell;

use edkm_kernels::{elementwise::exp, lanes::dispatch};
use rayon::prelude::*;

use super::cache::{CacheNumber, Lanes, LayerCache, Planes, Span, LANES};

/// Multiply-adds below which one thread does the work.
const SERIAL: usize = 1 << 17;

/// Tokens that one piece of work takes.
const TOKENS: usize = 8;

/// The axes of the queries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// Query heads: A.
    pub(super) queries: usize,
    /// Key and value heads: G, which divides A. Query head a reads head a / (A / G).
    pub(super) keys: usize,
    /// Numbers in a head: D.
    pub(super) dim: usize,
}

impl Heads {
    fn group(self) -> usize {
        self.queries / self.keys
    }

    fn width(self) -> usize {
        self.queries * self.dim
    }
}

/// `out` = softmax(q K^T / sqrt(D)) V for the tokens of each span, whose own keys and values are in the cache already.
/// `q` and `out` are `[tokens, A, D]`; spans are consecutive and cover them.
pub(super) fn attend(cache: &LayerCache, heads: Heads, spans: &[Span], q: &[f32], out: &mut [f32]) {
    match cache {
        LayerCache::F32(planes) => attend_in(planes, heads, spans, q, out),
        LayerCache::F16(planes) => attend_in(planes, heads, spans, q, out),
    }
}

fn attend_in<T: CacheNumber>(planes: &Planes<T>, heads: Heads, spans: &[Span], q: &[f32], out: &mut [f32]) {
    let positions = |span: &Span| span.tokens.len() * (span.seen.len() + span.tokens.len());
    let work = 2 * heads.width() * spans.iter().map(positions).sum::<usize>();
    if let ([span], 1) = (spans, out.len() / heads.width()) {
        // A single token: its heads are shared out.
        let group = heads.group() * heads.dim;
        let piece = |(g, (q, out)): (usize, (&[f32], &mut [f32]))| {
            Piece {
                planes,
                heads,
                keys: (g, g + 1),
                span,
                first: 0,
                q,
            }
            .run(out);
        };
        return if work < SERIAL {
            q.chunks(group).zip(out.chunks_mut(group)).enumerate().for_each(piece)
        } else {
            q.par_chunks(group)
                .zip(out.par_chunks_mut(group))
                .enumerate()
                .for_each(piece)
        };
    }
    let mut pieces = Vec::new();
    let mut rest = out;
    for span in spans {
        for first in (0..span.tokens.len()).step_by(TOKENS) {
            let tokens = TOKENS.min(span.tokens.len() - first);
            let (out, others) = rest.split_at_mut(tokens * heads.width());
            rest = others;
            let q = &q[(span.tokens.start + first) * heads.width()..][..out.len()];
            pieces.push((
                Piece {
                    planes,
                    heads,
                    keys: (0, heads.keys),
                    span,
                    first,
                    q,
                },
                out,
            ));
        }
    }
    if work < SERIAL {
        pieces.into_iter().for_each(|(piece, out)| piece.run(out));
    } else {
        pieces.into_par_iter().for_each(|(piece, out)| piece.run(out));
    }
}

/// Some tokens of a span and some key heads with their query heads.
struct Piece<'a, T> {
    planes: &'a Planes<T>,
    heads: Heads,
    /// First key head, and the one behind the last.
    keys: (usize, usize),
    span: &'a Span,
    /// First token, counted in the span.
    first: usize,
    /// `[tokens, query heads of these key heads, D]`
    q: &'a [f32],
}

/// A query of a piece.
#[derive(Clone, Copy, Default)]
struct Row {
    /// Where it begins in the piece's queries.
    at: usize,
    /// Its token, counted in the span.
    token: usize,
}

/// What a thread works in.
#[derive(Default)]
struct Scratch {
    /// Scores and then their exponentials, `[blocks, rows]`.
    scores: Vec<Lanes<f32>>,
    /// Output before division by the sum, `[value registers, rows]`.
    sums: Vec<Lanes<f32>>,
    /// A block of keys or values as f32.
    widened: Vec<Lanes<f32>>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = const {
        Cell::new(Scratch { scores: Vec::new(), sums: Vec::new(), widened: Vec::new() })
    };
}

impl<T: CacheNumber> Piece<'_, T> {
    fn run(&self, out: &mut [f32]) {
        let mut scratch = SCRATCH.take();
        scratch.widened.resize(
            self.planes.head_dim().max(LANES * self.planes.value_width()),
            [0.0; LANES],
        );
        let (group, dim) = (self.heads.group(), self.heads.dim);
        let width = (self.keys.1 - self.keys.0) * group * dim;
        let rows = self.q.len() / width * group;
        for key in self.keys.0..self.keys.1 {
            let row = |i: usize| {
                let (token, head) = (i / group, (key - self.keys.0) * group + i % group);
                Row {
                    at: token * width + head * dim,
                    token: self.first + token,
                }
            };
            let mut i = 0;
            while i < rows {
                i += match rows - i {
                    8.. => self.rows::<8>(key, std::array::from_fn(|r| row(i + r)), &mut scratch, out),
                    4.. => self.rows::<4>(key, std::array::from_fn(|r| row(i + r)), &mut scratch, out),
                    2.. => self.rows::<2>(key, std::array::from_fn(|r| row(i + r)), &mut scratch, out),
                    _ => self.rows::<1>(key, [row(i)], &mut scratch, out),
                }
            }
        }
        SCRATCH.set(scratch);
    }

    /// Attention of `R` queries that read key head `key`. Returns `R`.
    fn rows<const R: usize>(&self, key: usize, rows: [Row; R], scratch: &mut Scratch, out: &mut [f32]) -> usize {
        dispatch(
            #[inline(always)]
            || self.rows_in_registers(key, rows, scratch, out),
        );
        R
    }

    #[inline(always)]
    fn rows_in_registers<const R: usize>(&self, key: usize, rows: [Row; R], scratch: &mut Scratch, out: &mut [f32]) {
        let Scratch { scores, sums, widened } = scratch;
        let segments = self.segments(rows[R - 1].token);
        let blocks: usize = segments.iter().map(Segment::blocks).sum();
        scores.resize(scores.len().max(blocks * R), [0.0; LANES]);
        let scores = &mut scores[..blocks * R];

        let scale = 1.0 / (self.heads.dim as f32).sqrt();
        let queries = rows.map(|row| &self.q[row.at..][..self.heads.dim]);
        let mut of_block = scores.chunks_exact_mut(R);
        for segment in &segments {
            for (block, scores) in (0..segment.blocks()).zip(&mut of_block) {
                let keys = T::widen(
                    self.planes.keys(key, segment.first_block + block),
                    &mut widened[..self.heads.dim],
                );
                score_block::<R>(queries, keys, scale, scores);
                let begin = block * LANES;
                for (scores, row) in scores.iter_mut().zip(&rows) {
                    let visible = segment.visible(row.token).saturating_sub(begin);
                    scores
                        .iter_mut()
                        .skip(visible)
                        .for_each(|score| *score = f32::NEG_INFINITY);
                }
            }
        }

        // A loop, not `from_fn`: what a closure calls may be compiled apart, without the wide registers.
        let mut inverse = [0.0f32; R];
        for (r, inverse) in inverse.iter_mut().enumerate() {
            *inverse = softmax_numerators::<R>(scores, r);
        }

        let width = self.planes.value_width();
        sums.clear();
        sums.resize(width * R, [0.0; LANES]);
        let mut of_block = scores.chunks_exact(R);
        for segment in &segments {
            for (block, scores) in (0..segment.blocks()).zip(&mut of_block) {
                let values = self.planes.values(key, segment.first_block + block);
                let values = T::widen(values, &mut widened[..LANES * width]);
                // Beyond the last position there may be anything, even what is not a number.
                let positions = LANES.min(segment.rows - block * LANES);
                add_values::<R>(scores, &values[..positions * width], width, sums);
            }
        }
        for (r, row) in rows.iter().enumerate() {
            let out = out[row.at..][..self.heads.dim].chunks_mut(LANES);
            for (out, sums) in out.zip(sums.chunks_exact(R)) {
                out.iter_mut()
                    .zip(&sums[r])
                    .for_each(|(out, sum)| *out = sum * inverse[r]);
            }
        }
    }

    /// Where the keys lie that tokens up to `last` see.
    fn segments(&self, last: usize) -> [Segment; 2] {
        let Span { seen, own, .. } = self.span;
        let own_rows = |before| Segment {
            first_block: (own - before) / LANES,
            rows: before + last + 1,
            before,
        };
        if *own == seen.end {
            return [
                Segment {
                    first_block: 0,
                    rows: 0,
                    before: 0,
                },
                own_rows(seen.len()),
            ];
        }
        // All of `seen` stands before every token.
        let all = Segment {
            first_block: seen.start / LANES,
            rows: seen.len(),
            before: seen.len(),
        };
        [all, own_rows(0)]
    }
}

/// Consecutive positions of a cache that begin with a block.
struct Segment {
    first_block: usize,
    rows: usize,
    /// Those that every token sees; behind them each token sees its own and those before it.
    before: usize,
}

impl Segment {
    #[inline(always)]
    fn blocks(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Positions that a token sees.
    #[inline(always)]
    fn visible(&self, token: usize) -> usize {
        (self.before + token + 1).min(self.rows)
    }
}

/// scores `[R]` = scale x q K for one block of keys `[D]`.
///
/// One query after the other: a loop over queries within that over features is turned by the compiler into vectors of queries, whose numbers it gathers.
#[inline(always)]
fn score_block<const R: usize>(queries: [&[f32]; R], keys: &[Lanes<f32>], scale: f32, scores: &mut [Lanes<f32>]) {
    for (query, scores) in queries.iter().zip(scores) {
        let mut sums = [0.0f32; LANES];
        for (&q, key) in query.iter().zip(keys) {
            for i in 0..LANES {
                sums[i] = q.mul_add(key[i], sums[i]);
            }
        }
        for i in 0..LANES {
            scores[i] = sums[i] * scale;
        }
    }
}

/// Replaces the scores of row `r` by their exponentials, the largest taken away, and returns one over their sum.
#[inline(always)]
fn softmax_numerators<const R: usize>(scores: &mut [Lanes<f32>], r: usize) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    for scores in scores.iter().skip(r).step_by(R) {
        for i in 0..LANES {
            // A NaN score passes through the exponential to the output, whatever is the largest.
            largest[i] = if scores[i] > largest[i] { scores[i] } else { largest[i] };
        }
    }
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0f32; LANES];
    for scores in scores.iter_mut().skip(r).step_by(R) {
        for i in 0..LANES {
            scores[i] = exp(scores[i] - largest);
            sums[i] += scores[i];
        }
    }
    1.0 / sums.iter().sum::<f32>()
}

/// sums `[width, R]` += p V for one block of positions: p `[R]`, V `[positions, width]`. One row after the other, as in [`score_block`].
#[inline(always)]
fn add_values<const R: usize>(p: &[Lanes<f32>], values: &[Lanes<f32>], width: usize, sums: &mut [Lanes<f32>]) {
    for (column, sums) in sums.chunks_exact_mut(R).enumerate() {
        for (p, sums) in p.iter().zip(sums) {
            let mut register = *sums;
            for (&p, values) in p.iter().zip(values.chunks_exact(width)) {
                for i in 0..LANES {
                    register[i] = p.mul_add(values[column][i], register[i]);
                }
            }
            *sums = register;
        }
    }
}

#[cfg(test)]
mod tests;
