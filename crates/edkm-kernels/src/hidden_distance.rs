//! How far hidden states are from another model's, each token's relative to its own length.

use crate::{
    check,
    lanes::{dispatch, dot},
    parallel::{self, rows_in_piece},
};

/// The sum over rows of |x - y|^2 / |y|^2, and out = (x - y) / |y|^2 in each of them, which is half of the sum's gradient by x. A row counts nothing,
/// and its out is 0, where |y|^2 is below the least normal number. `x`, `y`, `out [N, H]`, with H = `width`.
///
/// # Panics
///
/// If `x` is not whole rows, or another differs in length.
pub fn forward(x: &[f32], y: &[f32], width: usize, out: &mut [f32]) -> f64 {
    assert!(
        x.is_empty() || (width > 0 && x.len().is_multiple_of(width)),
        "`x` holds {} numbers, not rows of {width}",
        x.len()
    );
    check::len("y [N, H]", y, x.len());
    check::len("out [N, H]", out, x.len());
    let mut of_row = vec![0.0f32; x.len().checked_div(width).unwrap_or(0)];
    let rows = rows_in_piece(width);
    parallel::for_each_piece2((out, &mut of_row), (rows * width, rows), |i, out, of_row| {
        let (x, y) = (&x[i * rows * width..], &y[i * rows * width..]);
        dispatch(
            #[inline(always)]
            || {
                let pairs = x.chunks_exact(width).zip(y.chunks_exact(width));
                for ((out, of_row), (x, y)) in out.chunks_exact_mut(width).zip(of_row.iter_mut()).zip(pairs) {
                    *of_row = row(x, y, out);
                }
            },
        );
    });
    of_row.iter().map(|&distance| f64::from(distance)).sum()
}

#[inline(always)]
fn row(x: &[f32], y: &[f32], out: &mut [f32]) -> f32 {
    let squares = dot(y, y);
    let inverse = if squares.is_normal() { 1.0 / squares } else { 0.0 };
    for (out, (x, y)) in out.iter_mut().zip(x.iter().zip(y)) {
        *out = x - y;
    }
    let distance = dot(out, out) * inverse;
    out.iter_mut().for_each(|out| *out *= inverse);
    distance
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_for_any_pool, random, wide};

    #[test]
    fn every_row_counts_by_its_own_length() {
        for (rows, width) in [(1, 1), (5, 7), (40, 33), (3, 4096)] {
            let (x, mut y) = (random(1, rows * width), random(2, rows * width));
            // a token whose state is far larger than the others', as LLaMAs' first one is, and one without any
            y[..width].iter_mut().for_each(|y| *y *= 1000.0);
            y[(rows - 1) * width..].fill(if rows > 1 { 0.0 } else { 1.0 });
            let (wx, wy) = (wide(&x), wide(&y));
            let (mut sum, mut half_gradient) = (0.0f64, Vec::new());
            for (x, y) in wx.chunks(width).zip(wy.chunks(width)) {
                let squares: f64 = y.iter().map(|y| y * y).sum();
                let inverse = if squares > 0.0 { 1.0 / squares } else { 0.0 };
                sum += x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>() * inverse;
                half_gradient.extend(x.iter().zip(y).map(|(x, y)| (x - y) * inverse));
            }
            let mut out = vec![f32::NAN; x.len()];
            let got = forward(&x, &y, width, &mut out);
            assert!((got - sum).abs() <= 1e-6 * sum, "{got} and {sum}");
            assert_close("out", &out, &half_gradient, 1e-6);
        }
        assert_eq!(forward(&[], &[], 4, &mut []), 0.0);
    }

    #[test]
    fn threads_do_not_change_it() {
        let (x, y) = (random(1, 300 * 256), random(2, 300 * 256));
        assert_same_for_any_pool("hidden_distance", || {
            let mut out = vec![0.0; x.len()];
            let sum = forward(&x, &y, 256, &mut out);
            out.push(sum as f32);
            out
        });
    }
}
