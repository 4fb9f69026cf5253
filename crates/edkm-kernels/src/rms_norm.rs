//! Root-mean-square normalisation: y = x / sqrt(mean(x^2) + eps) * weight, row by row.
//!
//! # Source
//!
//! B. Zhang and R. Sennrich, Root Mean Square Layer Normalization, arXiv 1910.07467.

use crate::{
    check, elementwise,
    lanes::{dispatch, dot, dot3},
    parallel::{self, rows_in_piece},
};

/// out = x / rms(x) * weight for each row. `x`, `out [N, H]`, `weight [H]`.
///
/// # Panics
///
/// If `x` is not whole rows, or `out` differs in length.
pub fn forward(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    check_rows(x, width);
    check::len("out [N, H]", out, x.len());
    parallel::for_each_piece(out, rows_in_piece(width) * width, |first, out| {
        dispatch(
            #[inline(always)]
            || {
                for (x, out) in x[first..].chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                    let inverse = inverse_rms(x, eps);
                    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
                        *out = x * inverse * weight;
                    }
                }
            },
        );
    });
}

/// Adds the gradients of `x` and `weight` to `grad_x` and `grad_weight`. `x`, `grad_out`, `grad_x [N, H]`, `weight`,
/// `grad_weight [H]`.
///
/// The reciprocal root is computed again from `x`. Allocates one row for each piece of rows: H ceil(N / max(16, 32768 / H))
/// x 4 bytes.
///
/// # Panics
///
/// If `x` is not whole rows, or a gradient differs in length.
pub fn backward(x: &[f32], weight: &[f32], eps: f32, grad_out: &[f32], grad_x: &mut [f32], grad_weight: &mut [f32]) {
    let width = weight.len();
    check_rows(x, width);
    check::len("grad_out [N, H]", grad_out, x.len());
    check::len("grad_x [N, H]", grad_x, x.len());
    check::len("grad_weight [H]", grad_weight, width);
    if x.is_empty() {
        return;
    }
    let piece = rows_in_piece(width) * width;
    // One partial sum of the weight's gradient for each piece of rows, added in order below.
    let mut partial = vec![0.0f32; x.len().div_ceil(piece) * width];
    parallel::for_each_piece2((grad_x, &mut partial), (piece, width), |i, grad_x, to_weight| {
        let (x, grad_out) = (&x[i * piece..], &grad_out[i * piece..]);
        dispatch(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(width).zip(grad_out.chunks_exact(width));
                for ((x, grad), to_x) in rows.zip(grad_x.chunks_exact_mut(width)) {
                    backward_row(x, weight, eps, grad, to_x, to_weight);
                }
            },
        );
    });
    for partial in partial.chunks_exact(width) {
        elementwise::add_assign(grad_weight, partial);
    }
}

/// With r = 1 / rms: dx = r w g - x r^3 mean(w g x), dw = g x r.
#[inline(always)]
fn backward_row(x: &[f32], weight: &[f32], eps: f32, grad: &[f32], to_x: &mut [f32], to_weight: &mut [f32]) {
    let inverse = inverse_rms(x, eps);
    let along_x = dot3(grad, weight, x) / x.len() as f32 * inverse * inverse * inverse;
    for ((to_x, to_weight), ((&x, &weight), &grad)) in
        to_x.iter_mut().zip(to_weight).zip(x.iter().zip(weight).zip(grad))
    {
        let scaled = grad * inverse;
        *to_x += scaled.mul_add(weight, -(x * along_x));
        *to_weight = scaled.mul_add(x, *to_weight);
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

#[track_caller]
fn check_rows(x: &[f32], width: usize) {
    assert!(width > 0 || x.is_empty(), "`weight [H]` is empty");
    assert!(
        x.is_empty() || x.len().is_multiple_of(width),
        "`x` holds {} numbers, not rows of {width}",
        x.len()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_for_any_pool, central_differences, random, wide};

    const EPS: f32 = 1e-5;

    fn reference(x: &[f64], weight: &[f64]) -> Vec<f64> {
        x.chunks_exact(weight.len())
            .flat_map(|row| {
                let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
                let inverse = 1.0 / (mean + f64::from(EPS)).sqrt();
                row.iter()
                    .zip(weight)
                    .map(move |(x, w)| x * inverse * w)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn forward_agrees_with_the_definition() {
        // Rows of less and more than the lanes, and more rows than one piece.
        for (rows, width) in [(1, 1), (3, 5), (2, 64), (5, 131), (1200, 67), (40, 4096)] {
            let (x, weight) = (random(1, rows * width), random(2, width));
            let mut out = vec![f32::NAN; x.len()];
            forward(&x, &weight, EPS, &mut out);
            assert_close("rms_norm", &out, &reference(&wide(&x), &wide(&weight)), 1e-6);
        }
    }

    #[test]
    fn backward_agrees_with_differences_and_adds() {
        for (rows, width) in [(1, 3), (4, 7), (2, 130)] {
            let n = rows * width;
            let (x, weight, grad_out) = (random(1, n), random(2, width), random(3, n));
            let loss = |x: &[f64], weight: &[f64]| -> f64 {
                reference(x, weight)
                    .iter()
                    .zip(&grad_out)
                    .map(|(y, &g)| y * f64::from(g))
                    .sum()
            };
            let (mut to_x, mut to_weight) = (vec![1.0; n], vec![-1.0; width]);
            backward(&x, &weight, EPS, &grad_out, &mut to_x, &mut to_weight);
            let by_x = central_differences(&wide(&x), |x| loss(x, &wide(&weight)));
            let by_weight = central_differences(&wide(&weight), |weight| loss(&wide(&x), weight));
            // Rounding in f32 of terms that partly cancel.
            assert_close("x", &to_x, &by_x.iter().map(|g| g + 1.0).collect::<Vec<_>>(), 2e-6);
            assert_close(
                "weight",
                &to_weight,
                &by_weight.iter().map(|g| g - 1.0).collect::<Vec<_>>(),
                2e-6,
            );
        }
    }

    #[test]
    fn do_not_depend_on_the_number_of_threads() {
        let (rows, width) = (1500, 70);
        let (x, weight, grad_out) = (random(1, rows * width), random(2, width), random(3, rows * width));
        assert_same_for_any_pool("rms_norm", || {
            let (mut to_x, mut to_weight) = (vec![0.0; rows * width], vec![0.0; width]);
            backward(&x, &weight, EPS, &grad_out, &mut to_x, &mut to_weight);
            to_x.extend(to_weight);
            to_x
        });
    }
}
