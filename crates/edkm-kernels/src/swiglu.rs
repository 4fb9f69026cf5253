//! The gated activation of LLaMA's feed-forward network, silu(gate) x up.
//!
//! # Source
//!
//! N. Shazeer, GLU Variants Improve Transformer, arXiv 2002.05202.

use crate::{check, elementwise::sigmoid, lanes::dispatch, parallel};

/// out = silu(gate) up, where silu(z) = z sigmoid(z). All `[N, F]`.
///
/// # Panics
///
/// If the lengths differ.
pub fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
    check::len("gate", gate, out.len());
    check::len("up", up, out.len());
    parallel::for_each_piece(out, parallel::PIECE, |first, out| {
        let (gate, up) = (&gate[first..][..out.len()], &up[first..][..out.len()]);
        dispatch(
            #[inline(always)]
            || {
                for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                    *out = gate * sigmoid(gate) * up;
                }
            },
        );
    });
}

/// Adds the gradients of `gate` and `up` to `grad_gate` and `grad_up`. All `[N, F]`.
///
/// # Panics
///
/// If the lengths differ.
pub fn backward(gate: &[f32], up: &[f32], grad_out: &[f32], grad_gate: &mut [f32], grad_up: &mut [f32]) {
    check::len("up", up, gate.len());
    check::len("grad_out", grad_out, gate.len());
    check::len("grad_gate", grad_gate, gate.len());
    check::len("grad_up", grad_up, gate.len());
    let piece = parallel::PIECE;
    parallel::for_each_piece2((grad_gate, grad_up), (piece, piece), |i, grad_gate, grad_up| {
        let (first, len) = (i * piece, grad_gate.len());
        let (gate, up, grad_out) = (&gate[first..][..len], &up[first..][..len], &grad_out[first..][..len]);
        dispatch(
            #[inline(always)]
            || {
                let inputs = gate.iter().zip(up).zip(grad_out);
                for (((&gate, &up), &grad), (to_gate, to_up)) in
                    inputs.zip(grad_gate.iter_mut().zip(grad_up.iter_mut()))
                {
                    let sigmoid = sigmoid(gate);
                    let silu = gate * sigmoid;
                    // silu' = sigmoid + silu (1 - sigmoid)
                    let slope = silu.mul_add(1.0 - sigmoid, sigmoid);
                    *to_gate = (grad * up).mul_add(slope, *to_gate);
                    *to_up = grad.mul_add(silu, *to_up);
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_for_any_pool, central_differences, random, wide};

    fn reference(gate: &[f64], up: &[f64]) -> Vec<f64> {
        gate.iter()
            .zip(up)
            .map(|(&z, &up)| z / (1.0 + (-z).exp()) * up)
            .collect()
    }

    /// Numbers in -8..8, where the sigmoid bends.
    fn gates(n: usize) -> Vec<f32> {
        random(1, n).into_iter().map(|x| 8.0 * x).collect()
    }

    #[test]
    fn forward_agrees_with_the_definition() {
        for n in [1, 100, 40_001] {
            let (gate, up) = (gates(n), random(2, n));
            let mut out = vec![f32::NAN; n];
            forward(&gate, &up, &mut out);
            assert_close("swiglu", &out, &reference(&wide(&gate), &wide(&up)), 1e-6);
        }
    }

    #[test]
    fn backward_agrees_with_differences_and_adds() {
        let n = 37;
        let (gate, up, grad_out) = (gates(n), random(2, n), random(3, n));
        let loss = |gate: &[f64], up: &[f64]| -> f64 {
            reference(gate, up)
                .iter()
                .zip(&grad_out)
                .map(|(y, &g)| y * f64::from(g))
                .sum()
        };
        let (mut to_gate, mut to_up) = (vec![1.0; n], vec![-2.0; n]);
        backward(&gate, &up, &grad_out, &mut to_gate, &mut to_up);
        let by_gate = central_differences(&wide(&gate), |gate| loss(gate, &wide(&up)));
        let by_up = central_differences(&wide(&up), |up| loss(&wide(&gate), up));
        // Differences are good to 1e-9; the rest is rounding in f32.
        assert_close(
            "gate",
            &to_gate,
            &by_gate.iter().map(|g| g + 1.0).collect::<Vec<_>>(),
            1e-6,
        );
        assert_close("up", &to_up, &by_up.iter().map(|g| g - 2.0).collect::<Vec<_>>(), 1e-6);
    }

    #[test]
    fn do_not_depend_on_the_number_of_threads() {
        let n = 100_003;
        let (gate, up, grad_out) = (gates(n), random(2, n), random(3, n));
        assert_same_for_any_pool("swiglu", || {
            let (mut to_gate, mut to_up) = (vec![0.0; n], vec![0.0; n]);
            backward(&gate, &up, &grad_out, &mut to_gate, &mut to_up);
            to_gate.extend(to_up);
            to_gate
        });
    }
}
