//! Rotary position embedding in the layout of Hugging Face's LLaMA: number i of a head turns with number i + D/2.
//!
//! # Source
//!
//! J. Su and others, RoFormer: Enhanced Transformer with Rotary Position Embedding, arXiv 2104.09864.

use crate::{
    check,
    lanes::dispatch,
    parallel::{self, rows_in_piece},
};

/// Which way the pairs are turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By the angle of the position, as queries and keys are.
    Forward,
    /// By the opposite angle: what a gradient passes through, the rotation being orthogonal.
    Backward,
}

/// Cosines and sines of the angles position x inverse frequency, computed in f64.
///
/// Memory: positions x D/2 x 8 bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// `[positions, D/2]`
    cosines: Vec<f32>,
    /// `[positions, D/2]`
    sines: Vec<f32>,
    half: usize,
    positions: usize,
}

impl Table {
    /// The table for positions 0 to `positions` - 1. `inverse_frequencies [D/2]` in radians per position: plainly
    /// theta^(-2i/D), or as a scaling of the context length has changed them.
    #[must_use]
    pub fn new(inverse_frequencies: &[f64], positions: usize) -> Table {
        let half = inverse_frequencies.len();
        let (mut cosines, mut sines) = (vec![0.0; positions * half], vec![0.0; positions * half]);
        let rows = rows_in_piece(half);
        let size = rows * half;
        parallel::for_each_piece2((&mut cosines, &mut sines), (size, size), |piece, cosines, sines| {
            let angles = (piece * rows..).flat_map(|p| inverse_frequencies.iter().map(move |f| p as f64 * f));
            for ((cosine, sine), angle) in cosines.iter_mut().zip(sines).zip(angles) {
                let (sin, cos) = angle.sin_cos();
                (*cosine, *sine) = (cos as f32, sin as f32);
            }
        });
        Table {
            cosines,
            sines,
            half,
            positions,
        }
    }

    /// Cosines of the angles `[positions, D/2]`.
    #[must_use]
    pub fn cosines(&self) -> &[f32] {
        &self.cosines
    }

    /// Sines of the angles `[positions, D/2]`.
    #[must_use]
    pub fn sines(&self) -> &[f32] {
        &self.sines
    }

    /// Numbers in a head: D.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        2 * self.half
    }

    /// Positions that the table serves.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.positions
    }
}

/// Turns every head of every token in place: `x [N, heads, D]`. The position of token n is n mod `seq_len` + `offset`.
///
/// # Panics
///
/// If `x` is not whole tokens, sequences have none, or a position is beyond the table.
pub fn apply(table: &Table, x: &mut [f32], heads: usize, seq_len: usize, offset: usize, direction: Direction) {
    let head_dim = table.head_dim();
    let width = heads * head_dim;
    if x.is_empty() || width == 0 {
        return check::len("x [N, heads, D]", x, 0);
    }
    assert!(
        x.len().is_multiple_of(width),
        "`x` holds {} numbers, not tokens of {heads} heads of {head_dim}",
        x.len()
    );
    assert!(seq_len > 0, "sequences of no token");
    let last = seq_len.min(x.len() / width).saturating_add(offset);
    assert!(
        last <= table.positions,
        "{last} positions are asked of a rotary table of {}",
        table.positions
    );

    let rows = rows_in_piece(width);
    parallel::for_each_piece(x, rows * width, |first, x| {
        dispatch(
            #[inline(always)]
            || {
                for (i, token) in x.chunks_exact_mut(width).enumerate() {
                    let position = (first / width + i) % seq_len + offset;
                    let cosines = &table.cosines[position * table.half..][..table.half];
                    let sines = &table.sines[position * table.half..][..table.half];
                    match direction {
                        Direction::Forward => turn(token, cosines, sines, 1.0),
                        Direction::Backward => turn(token, cosines, sines, -1.0),
                    }
                }
            },
        );
    });
}

/// (a, b) -> (a cos - b sin, b cos + a sin) for the halves a and b of each head, the sine taken with `sign`.
#[inline(always)]
fn turn(token: &mut [f32], cosines: &[f32], sines: &[f32], sign: f32) {
    for head in token.chunks_exact_mut(2 * cosines.len()) {
        let (first, second) = head.split_at_mut(cosines.len());
        for ((a, b), (&cos, &sin)) in first.iter_mut().zip(second).zip(cosines.iter().zip(sines)) {
            let sin = sin * sign;
            (*a, *b) = (a.mul_add(cos, -(*b * sin)), b.mul_add(cos, *a * sin));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_for_any_pool, random, wide};

    fn frequencies(head_dim: usize) -> Vec<f64> {
        (0..head_dim / 2)
            .map(|i| 10_000f64.powf(-2.0 * i as f64 / head_dim as f64))
            .collect()
    }

    /// x cos + rotate_half(x) sin, as Hugging Face writes it.
    fn reference(x: &[f64], heads: usize, head_dim: usize, seq_len: usize, offset: usize) -> Vec<f64> {
        let frequencies = frequencies(head_dim);
        let half = head_dim / 2;
        (0..x.len())
            .map(|i| {
                let (head, d, token) = (i / head_dim, i % head_dim, i / (heads * head_dim));
                let angle = (token % seq_len + offset) as f64 * frequencies[d % half];
                let partner = if d < half {
                    -x[head * head_dim + d + half]
                } else {
                    x[head * head_dim + d - half]
                };
                x[i] * angle.cos() + partner * angle.sin()
            })
            .collect()
    }

    #[test]
    fn agrees_with_rotate_half() {
        for (batch, seq_len, heads, head_dim, offset) in [(1, 1, 1, 2, 7), (2, 5, 3, 8, 0), (3, 100, 2, 128, 40)] {
            let x = random(1, batch * seq_len * heads * head_dim);
            let table = Table::new(&frequencies(head_dim), seq_len + offset);
            let mut got = x.clone();
            apply(&table, &mut got, heads, seq_len, offset, Direction::Forward);
            assert_close(
                "rotary",
                &got,
                &reference(&wide(&x), heads, head_dim, seq_len, offset),
                4e-7,
            );
            apply(&table, &mut got, heads, seq_len, offset, Direction::Backward);
            assert_close("there and back", &got, &wide(&x), 4e-7);
        }
    }

    /// Several pieces of positions, and one; no frequency.
    #[test]
    fn a_table_holds_the_angles_of_its_positions() {
        for (head_dim, positions) in [(8, 20_000), (128, 700), (2, 1), (0, 5)] {
            let frequencies = frequencies(head_dim);
            let table = Table::new(&frequencies, positions);
            let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
            let want: Vec<[f32; 2]> = angles.map(|angle| [angle.cos() as f32, angle.sin() as f32]).collect();
            let got = table.cosines().iter().zip(table.sines()).map(|(&cos, &sin)| [cos, sin]);
            assert!(got.eq(want), "{positions} positions of {head_dim}");
            assert_eq!((table.head_dim(), table.positions()), (head_dim, positions));
        }
    }

    #[test]
    fn does_not_depend_on_the_number_of_threads() {
        let table = Table::new(&frequencies(16), 300);
        let x = random(1, 4 * 300 * 5 * 16);
        assert_same_for_any_pool("rotary", || {
            let mut x = x.clone();
            apply(&table, &mut x, 5, 300, 0, Direction::Forward);
            x
        });
    }

    #[test]
    #[should_panic(expected = "9 positions are asked of a rotary table of 8")]
    fn a_position_beyond_the_table_is_named() {
        apply(
            &Table::new(&frequencies(4), 8),
            &mut [0.0; 20],
            1,
            5,
            4,
            Direction::Forward,
        );
    }
}
