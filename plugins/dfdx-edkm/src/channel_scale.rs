//! A factor for each output channel, so that rows of different spread can share a palette.

use std::borrow::Cow;

use edkm_cluster::MatrixShape;
use half::bf16;

/// Whether the rows of a weight are brought to one spread before they are clustered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
            Self::RootMeanSquare => Some(weight.chunks(shape.cols.max(1)).map(root_mean_square).collect()),
        }
    }
}

/// 1 for a row of zeros, or one that is not finite (which the clustering then refuses, naming the weight).
fn root_mean_square(row: &[f32]) -> f32 {
    let squares: f64 = row.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
    let root = bf16::from_f64((squares / row.len().max(1) as f64).sqrt()).to_f32();
    if root.is_normal() {
        root
    } else {
        1.0
    }
}

/// The weight with each row divided by its factor, if there is one. Memory: a copy of the weight if there is.
pub fn divided<'w>(weight: &'w [f32], row_scales: Option<&[f32]>) -> Cow<'w, [f32]> {
    match row_scales {
        None => Cow::Borrowed(weight),
        Some(scales) => {
            let mut divided = weight.to_vec();
            divide_rows(&mut divided, scales);
            Cow::Owned(divided)
        }
    }
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
    let cols = (a.len() / rows.max(1)).max(1);
    let of_row = |(a, b): (&[f32], &[f32])| -> f64 {
        let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
        products.sum()
    };
    a.chunks(cols).zip(b.chunks(cols)).map(of_row).collect()
}

/// Adds to dL/dW what comes through the root mean squares of its rows: ds/dw = w / (n s), where w / s is the weight `divided` by its factors.
///
/// A row without a factor of its own is one of zeros, which adds nothing.
pub(crate) fn add_through_scales(grad_weight: &mut [f32], divided: &[f32], grad_scales: &[f64]) {
    let cols = (divided.len() / grad_scales.len().max(1)).max(1);
    for ((grads, divided), &grad_scale) in grad_weight.chunks_mut(cols).zip(divided.chunks(cols)).zip(grad_scales) {
        let share = (grad_scale / cols as f64) as f32;
        for (grad, &number) in grads.iter_mut().zip(divided) {
            *grad += share * number;
        }
    }
}

fn for_rows(numbers: &mut [f32], scales: &[f32], f: impl Fn(f32, f32) -> f32) {
    let cols = numbers.len() / scales.len().max(1);
    for (row, &scale) in numbers.chunks_mut(cols.max(1)).zip(scales) {
        for number in row {
            *number = f(*number, scale);
        }
    }
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
}
