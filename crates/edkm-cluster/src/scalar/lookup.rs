//! Passes over weights that look each one's key up in a table.
//!
//! They are bound by memory: weights are rounded a block at a time in the first-level cache, and the hot part of a table (some thousand
//! keys) stays there too.

use crate::dispatch::widest;
use crate::half_key::{BLOCK, KEYS};
use crate::HalfKind;

/// `out[i] = table[key of weights[i]]`.
pub(crate) fn gather<T: Copy>(half: HalfKind, weights: &[f32], table: &[T; KEYS], out: &mut [T]) {
    widest(|| {
        let mut keys = [0u16; BLOCK];
        for (weights, out) in weights.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
            half.round(weights, &mut keys);
            for (out, &key) in out.iter_mut().zip(&keys) {
                *out = table[key as usize];
            }
        }
    });
}

/// What dL/dW becomes of dL/dW~, for a table of slope and shift.
pub(crate) type SlopeShift = [f32; 2];

/// `grad[i] = grad[i] * slope + shift`.
pub(crate) fn mul_add(half: HalfKind, weights: &[f32], table: &[SlopeShift; KEYS], grad: &mut [f32]) {
    widest(|| {
        let mut keys = [0u16; BLOCK];
        for (weights, grad) in weights.chunks(BLOCK).zip(grad.chunks_mut(BLOCK)) {
            half.round(weights, &mut keys);
            for (grad, &key) in grad.iter_mut().zip(&keys) {
                let [slope, shift] = table[key as usize];
                *grad = *grad * slope + shift;
            }
        }
    });
}

/// `total[i] += grad[i] * slope + shift`.
pub(crate) fn mul_add_accumulate(
    half: HalfKind,
    weights: &[f32],
    table: &[SlopeShift; KEYS],
    grad: &[f32],
    total: &mut [f32],
) {
    widest(|| {
        let mut keys = [0u16; BLOCK];
        for ((weights, grad), total) in weights
            .chunks(BLOCK)
            .zip(grad.chunks(BLOCK))
            .zip(total.chunks_mut(BLOCK))
        {
            half.round(weights, &mut keys);
            for ((total, grad), &key) in total.iter_mut().zip(grad).zip(&keys) {
                let [slope, shift] = table[key as usize];
                *total += *grad * slope + shift;
            }
        }
    });
}
