//! The optimizer AdamW, one pass over a parameter, and the norm that clipping needs.
//!
//! # Source
//!
//! I. Loshchilov and F. Hutter, Decoupled Weight Decay Regularization, arXiv 1711.05101.

pub mod eight_bit;

use crate::{check, lanes::dispatch, parallel};
use rayon::prelude::*;

/// What an update depends on beside parameter, gradient and moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled decay: each step multiplies the parameter by 1 - lr x weight_decay.
    pub weight_decay: f32,
    /// Number of this step, from 1: corrects the moments' bias towards 0.
    pub step: u64,
    /// Factor that the gradient is taken with: 1, or less when the norm is clipped or gradients were accumulated.
    pub grad_scale: f32,
}

/// Numbers that one thread updates in one go; four streams, so a quarter of the usual piece would still do.
const PIECE: usize = parallel::PIECE;

/// One step of AdamW, in place. All four slices are of one length, `m` and `v` zero before step 1.
///
/// ```text
/// g = grad_scale grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
/// param = (1 - lr weight_decay) param - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
/// ```
///
/// # Panics
///
/// If the lengths differ, or `step` is 0.
pub fn update(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], hyper: &Hyper) {
    check::len("grad", grad, param.len());
    check::len("m", m, param.len());
    check::len("v", v, param.len());
    assert!(hyper.step > 0, "steps are counted from 1");
    let factors = Factors::of(hyper);
    if param.len() <= PIECE {
        return update_piece(param, grad, m, v, factors);
    }
    let pieces = param.par_chunks_mut(PIECE).zip(grad.par_chunks(PIECE));
    pieces
        .zip(m.par_chunks_mut(PIECE).zip(v.par_chunks_mut(PIECE)))
        .for_each(|((param, grad), (m, v))| {
            update_piece(param, grad, m, v, factors);
        });
}

/// [`Hyper`] with all that is the same for every number computed once, in f64.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    /// Multiplies the gradient.
    pub grad_scale: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Share of the gradient in the first moment.
    pub one_minus_beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Share of the gradient's square in the second moment.
    pub one_minus_beta2: f32,
    /// What decay leaves of the parameter: 1 - lr weight_decay.
    pub keep: f32,
    /// Learning rate with the first moment's bias taken out.
    pub step_size: f32,
    /// Factor that takes the second moment's bias out of its root.
    pub inverse_root_correction2: f32,
    /// Added to that root.
    pub eps: f32,
}

impl Factors {
    /// The factors of one step.
    #[must_use]
    pub fn of(hyper: &Hyper) -> Self {
        let (lr, beta1, beta2) = (f64::from(hyper.lr), f64::from(hyper.beta1), f64::from(hyper.beta2));
        let step = hyper.step as f64;
        Factors {
            grad_scale: hyper.grad_scale,
            beta1: hyper.beta1,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: hyper.beta2,
            one_minus_beta2: (1.0 - beta2) as f32,
            keep: (1.0 - lr * f64::from(hyper.weight_decay)) as f32,
            step_size: (lr / (1.0 - beta1.powf(step))) as f32,
            inverse_root_correction2: (1.0 - beta2.powf(step)).sqrt().recip() as f32,
            eps: hyper.eps,
        }
    }

    /// One number's step: its new value, and its new moments.
    #[inline(always)]
    fn step(&self, param: f32, grad: f32, m: f32, v: f32) -> (f32, f32, f32) {
        let grad = grad * self.grad_scale;
        let m = self.beta1.mul_add(m, self.one_minus_beta1 * grad);
        let v = self.beta2.mul_add(v, self.one_minus_beta2 * grad * grad);
        let direction = m / v.sqrt().mul_add(self.inverse_root_correction2, self.eps);
        (self.keep.mul_add(param, -(self.step_size * direction)), m, v)
    }
}

fn update_piece(param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], f: Factors) {
    dispatch(
        #[inline(always)]
        || {
            for ((param, &grad), (m, v)) in param.iter_mut().zip(grad).zip(m.iter_mut().zip(v.iter_mut())) {
                (*param, *m, *v) = f.step(*param, grad, *m, *v);
            }
        },
    );
}

/// The sum of the squares, in f64 and in a fixed order.
#[must_use]
pub fn sum_of_squares(grad: &[f32]) -> f64 {
    let of_piece = |piece: &[f32]| {
        dispatch(
            #[inline(always)]
            || {
                let (chunks, rest) = piece.as_chunks::<16>();
                let mut lanes = [0.0f64; 16];
                for chunk in chunks {
                    for (lane, &x) in lanes.iter_mut().zip(chunk) {
                        *lane = f64::from(x).mul_add(f64::from(x), *lane);
                    }
                }
                for (lane, &x) in lanes.iter_mut().zip(rest) {
                    *lane = f64::from(x).mul_add(f64::from(x), *lane);
                }
                lanes.iter().sum::<f64>()
            },
        )
    };
    if grad.len() <= PIECE {
        return of_piece(grad);
    }
    let partial: Vec<f64> = grad.par_chunks(PIECE).map(of_piece).collect();
    partial.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_for_any_pool, random, wide};

    const HYPER: Hyper = Hyper {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 1,
        grad_scale: 0.5,
    };

    #[test]
    fn follows_the_definition_over_several_steps() {
        let n = 20_000;
        let mut param = random(1, n);
        let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
        let (mut p64, mut m64, mut v64) = (wide(&param), vec![0.0f64; n], vec![0.0f64; n]);
        for step in 1..=5u64 {
            let grad = random(10 + step, n);
            update(&mut param, &grad, &mut m, &mut v, &Hyper { step, ..HYPER });
            let (b1, b2) = (f64::from(HYPER.beta1), f64::from(HYPER.beta2));
            let (lr, decay) = (f64::from(HYPER.lr), f64::from(HYPER.weight_decay));
            for i in 0..n {
                let g = f64::from(grad[i]) * 0.5;
                m64[i] = b1 * m64[i] + (1.0 - b1) * g;
                v64[i] = b2 * v64[i] + (1.0 - b2) * g * g;
                let m_hat = m64[i] / (1.0 - b1.powi(step as i32));
                let v_hat = v64[i] / (1.0 - b2.powi(step as i32));
                p64[i] -= lr * decay * p64[i];
                p64[i] -= lr * m_hat / (v_hat.sqrt() + f64::from(HYPER.eps));
            }
        }
        assert_close("param", &param, &p64, 1e-6);
        assert_close("m", &m, &m64, 1e-6);
        assert_close("v", &v, &v64, 1e-6);
    }

    #[test]
    fn sum_of_squares_is_exact_to_f64() {
        for n in [0, 5, 16_384, 50_001] {
            let grad = random(1, n);
            let exact: f64 = wide(&grad).iter().map(|g| g * g).sum();
            assert!((sum_of_squares(&grad) - exact).abs() <= 1e-12 * exact);
        }
    }

    #[test]
    fn do_not_depend_on_the_number_of_threads() {
        let n = 100_003;
        let (param, grad) = (random(1, n), random(2, n));
        assert_same_for_any_pool("adamw", || {
            let (mut param, mut m, mut v) = (param.clone(), vec![0.0; n], vec![0.0; n]);
            update(&mut param, &grad, &mut m, &mut v, &HYPER);
            let sum = sum_of_squares(&grad).to_bits();
            param.extend([f32::from_bits((sum >> 32) as u32), f32::from_bits(sum as u32)]);
            param
        });
    }
}
