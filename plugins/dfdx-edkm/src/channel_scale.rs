//! A factor for each output channel, so that rows of different spread can share a palette.

use std::borrow::Cow;

use edkm_cluster::MatrixShape;
use half::bf16;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Whether the rows of a weight are brought to one spread before they are clustered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChannelScale {
    /// They are clustered as they are.
    #[default]
    None,
    /// Each is divided by its root mean square, rounded to bf16, which multiplies the clustered row again: 16 more bits a row of the compressed
    /// model. It follows the weight from step to step, and the gradient goes through it, the rounding passed over.
    RootMeanSquare,
}

impl ChannelScale {
    /// Bytes that the factors of so many rows take in a compressed model.
    pub fn bytes(self, rows: usize) -> usize {
        match self {
            Self::None => 0,
            Self::RootMeanSquare => 2 * rows,
        }
    }

    /// The factor of each row of `weight`, if there is one: finite, above 0, and exact in bf16.
    pub fn of(self, weight: &[f32], shape: MatrixShape) -> Option<Vec<f32>> {
        match self {
            Self::None => None,
            Self::RootMeanSquare => {
                let cols = shape.cols.max(1);
                let squares = row_sums(weight.len() / cols, cols, |at| {
                    f64::from(weight[at]) * f64::from(weight[at])
                });
                Some(squares.into_iter().map(|sum| root_mean_square(sum, cols)).collect())
            }
        }
    }
}

/// Of a row with this sum of squares. 1 for a row of zeros, or one that is not finite (which the clustering then refuses, naming the weight).
fn root_mean_square(squares: f64, cols: usize) -> f32 {
    let root = bf16::from_f64((squares / cols as f64).sqrt()).to_f32();
    if root.is_normal() {
        root
    } else {
        1.0
    }
}

/// Rows that are summed together, so that the additions of one need not wait for each other.
const TOGETHER: usize = 8;

/// The sum of `term` over each row of a matrix, in the order of its columns.
fn row_sums(rows: usize, cols: usize, term: impl Fn(usize) -> f64 + Sync) -> Vec<f64> {
    let sums_of = |first: usize| {
        let mut sums = [0.0; TOGETHER];
        let sums_of_rows = &mut sums[..TOGETHER.min(rows - first)];
        for col in 0..cols {
            for (row, sum) in (first..).zip(sums_of_rows.iter_mut()) {
                *sum += term(row * cols + col);
            }
        }
        sums.into_iter().take(rows - first)
    };
    let blocks = (0..rows).into_par_iter().step_by(TOGETHER);
    blocks.flat_map_iter(sums_of).collect()
}

/// The weight with each row divided by its factor, if there is one. Memory: a copy of the weight if there is.
pub fn divided<'w>(weight: &'w [f32], row_scales: Option<&[f32]>) -> Cow<'w, [f32]> {
    match row_scales {
        None => Cow::Borrowed(weight),
        Some(scales) => {
            let mut divided = vec![0.0; weight.len()];
            divide_rows_into(weight, scales, &mut divided);
            Cow::Owned(divided)
        }
    }
}

/// Writes the weight with each row divided by its factor.
pub(crate) fn divide_rows_into(weight: &[f32], scales: &[f32], out: &mut [f32]) {
    let cols = row_len(weight, scales);
    let rows = out.par_chunks_mut(cols).zip(weight.par_chunks(cols)).zip(scales);
    rows.with_min_len(rows_a_task(cols))
        .for_each(|((out, weight), &scale)| {
            for (out, weight) in out.iter_mut().zip(weight) {
                *out = weight / scale;
            }
        });
}

/// Divides each row by its factor.
pub(crate) fn divide_rows(numbers: &mut [f32], scales: &[f32]) {
    for_rows(numbers, scales, |number, scale| number / scale);
}

/// Multiplies each row by its factor.
pub(crate) fn multiply_rows(numbers: &mut [f32], scales: &[f32]) {
    for_rows(numbers, scales, |number, scale| number * scale);
}

/// The sum of products of each row of two matrices.
pub(crate) fn row_products(a: &[f32], b: &[f32], rows: usize) -> Vec<f64> {
    let cols = a.len() / rows.max(1);
    let (a, b) = (&a[..rows * cols], &b[..rows * cols]);
    row_sums(rows, cols, |at| f64::from(a[at]) * f64::from(b[at]))
}

/// Adds to dL/dW what comes through the root mean squares of its rows: ds/dw = w / (n s), where w / s is the weight `divided` by its factors.
///
/// A row without a factor of its own is one of zeros, which adds nothing.
pub(crate) fn add_through_scales(grad_weight: &mut [f32], divided: &[f32], grad_scales: &[f64]) {
    let cols = row_len(divided, grad_scales);
    let rows = grad_weight.par_chunks_mut(cols).zip(divided.par_chunks(cols));
    let rows = rows.zip(grad_scales).with_min_len(rows_a_task(cols));
    rows.for_each(|((grads, divided), &grad_scale)| {
        let share = (grad_scale / cols as f64) as f32;
        for (grad, &number) in grads.iter_mut().zip(divided) {
            *grad += share * number;
        }
    });
}

fn for_rows(numbers: &mut [f32], scales: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    let cols = row_len(numbers, scales);
    let rows = numbers.par_chunks_mut(cols).zip(scales);
    rows.with_min_len(rows_a_task(cols)).for_each(|(row, &scale)| {
        for number in row {
            *number = f(*number, scale);
        }
    });
}

/// At least 1, which chunks have.
fn row_len<T>(matrix: &[f32], of_rows: &[T]) -> usize {
    (matrix.len() / of_rows.len().max(1)).max(1)
}

/// A task is worth some microseconds.
fn rows_a_task(cols: usize) -> usize {
    ((1 << 14) / cols).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_a_spread_keep_theirs() {
        let shape = MatrixShape::new(4, 2);
        let weight = [3.0, -4.0, 0.0, 0.0, f32::NAN, 1.0, 1e-44, 0.0];
        let scales = ChannelScale::RootMeanSquare.of(&weight, shape).unwrap();
        // bf16 has 8 bits: steps of 1/64 from 2 to 4
        assert_eq!(scales, [(12.5f32.sqrt() * 64.0).round() / 64.0, 1.0, 1.0, 1.0]);
        assert_eq!(ChannelScale::None.of(&weight, shape), None);
    }

    #[test]
    fn sums_of_rows_are_in_their_order() {
        let [a, b] = [1, 2].map(|seed| edkm_testkit::random(seed, 19 * 37));
        let rows = a.chunks(37).zip(b.chunks(37));
        let want = rows.map(|(a, b)| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum());
        assert_eq!(row_products(&a, &b, 19), want.collect::<Vec<f64>>());
        assert!(row_products(&[], &[], 0).is_empty());
    }
}
