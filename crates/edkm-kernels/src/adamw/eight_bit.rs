//! AdamW with moments of 8 bits each: 2 bytes a parameter in place of 8.
//!
//! Numbers stand in blocks of [`BLOCK`], each with a scale of its own for either moment, so that a large gradient costs only its neighbours
//! precision (T. Dettmers and others, 8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861). A scale is the power of two above the block's
//! largest magnitude, and a code a small float of three bits of fraction:
//!
//! | | bits | numbers over the scale | code 0 |
//! |---|---|---|---|
//! | first moment | sign, 4 of exponent, 3 of fraction | 0, and 2^-18 to 1; below 2^-15 in even steps | 0 |
//! | second moment | 5 of exponent, 3 of fraction | 2^-31 to 1 | the smallest, lest a direction be divided by 0 |
//!
//! Unlike there, codes are rounded **stochastically**: up as often as the number lies near the code above. A mean over steps changes by a twentieth or a
//! thousandth a step, less than half of a code, and rounded to nearest it would stay where it is. A number that has not changed is not rounded
//! again, since scales are powers of two. The random bits are a hash of step and place, so that a run is the same each time and on each device. The step
//! itself is computed from the new moments before they are rounded.

use super::{Factors, Hyper, PIECE};
use crate::{check, lanes::dispatch};
use rayon::prelude::*;

/// Numbers that share their scales.
pub const BLOCK: usize = 256;

/// Bits of a float below those that a code keeps: sign and exponent stand above, and 3 bits of the fraction.
const DROPPED: u32 = 20;

/// Added to the first moment's magnitudes, so that the smallest are told apart in even steps: the float of code 0.
const FIRST_ZERO: f32 = 1.0 / (1 << 15) as f32;

/// The float of the second moment's code 0.
const SECOND_LEAST: f32 = 1.0 / (1u32 << 31) as f32;

/// A block whose largest magnitude has a smaller exponent (with its bias of 127) is a block of zeros: products with its scale would lose bits.
const LEAST_EXPONENT: u32 = 32;

/// The largest exponent of a scale, so that its inverse has its bits too. Larger magnitudes become the largest code.
const LARGEST_EXPONENT: u32 = 253;

/// Both moments of the numbers of a parameter.
#[derive(Debug)]
pub struct Moments<'a> {
    /// Codes of the first moment, one a number.
    pub first: &'a mut [u8],
    /// Codes of the second moment, one a number.
    pub second: &'a mut [u8],
    /// `[blocks, 2]`: what the floats of codes are multiplied by, for the first and the second moment.
    pub scales: &'a mut [f32],
}

/// Scales of the moments of so many numbers.
#[must_use]
pub fn scales(len: usize) -> usize {
    2 * len.div_ceil(BLOCK)
}

/// [`super::update`] with moments of 8 bits each; all zeros before step 1.
///
/// # Panics
///
/// If the lengths do not belong together, or `step` is 0.
pub fn update(param: &mut [f32], grad: &[f32], moments: Moments<'_>, hyper: &Hyper) {
    let Moments { first, second, scales } = moments;
    check::len("grad", grad, param.len());
    check::len("first", first, param.len());
    check::len("second", second, param.len());
    check::len("scales", scales, self::scales(param.len()));
    assert!(hyper.step > 0, "steps are counted from 1");
    let (factors, seed) = (Factors::of(hyper), seed(hyper.step));
    let numbers = param.par_chunks_mut(PIECE).zip(grad.par_chunks(PIECE));
    let codes = first.par_chunks_mut(PIECE).zip(second.par_chunks_mut(PIECE));
    let pieces = numbers.zip(codes.zip(scales.par_chunks_mut(self::scales(PIECE))));
    pieces
        .enumerate()
        .for_each(|(piece, ((param, grad), ((first, second), scales)))| {
            let numbers = param.chunks_mut(BLOCK).zip(grad.chunks(BLOCK));
            let codes = first.chunks_mut(BLOCK).zip(second.chunks_mut(BLOCK));
            let blocks = numbers.zip(codes.zip(scales.as_chunks_mut::<2>().0)).enumerate();
            for (block, ((param, grad), ((first, second), scales))) in blocks {
                let place = (piece * PIECE + block * BLOCK) as u32;
                dispatch(
                    #[inline(always)]
                    || update_block(param, grad, first, second, scales, &factors, place.wrapping_add(seed)),
                );
            }
        });
}

/// One block. `random`: the number that the first of it is hashed from.
#[inline(always)]
fn update_block(
    param: &mut [f32],
    grad: &[f32],
    first: &mut [u8],
    second: &mut [u8],
    scales: &mut [f32; 2],
    factors: &Factors,
    random: u32,
) {
    let (mut ms, mut vs) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
    let numbers = param.iter_mut().zip(grad).zip(first.iter().zip(second.iter()));
    for (((param, &grad), (&first, &second)), (m, v)) in numbers.zip(ms.iter_mut().zip(&mut vs)) {
        let (old_m, old_v) = (scales[0] * first_of(first), scales[1] * second_of(second));
        (*param, *m, *v) = factors.step(*param, grad, old_m, old_v);
    }
    let (m_scale, v_scale) = (Scale::of(&ms), Scale::of(&vs));
    *scales = [m_scale.scale, v_scale.scale];
    for (i, (first, second)) in first.iter_mut().zip(second).enumerate() {
        let random = hash(random.wrapping_add(i as u32));
        *first = first_code(ms[i], m_scale.inverse, random >> 16);
        *second = second_code(vs[i], v_scale.inverse, random & 0xffff);
    }
}

/// What a block's numbers are divided by.
#[derive(Clone, Copy)]
struct Scale {
    scale: f32,
    inverse: f32,
}

impl Scale {
    #[inline(always)]
    fn of(numbers: &[f32; BLOCK]) -> Self {
        // as integers magnitudes are in the same order, and vectors have an instruction for their maximum
        const LANES: usize = 32;
        let mut lanes = [0u32; LANES];
        for chunk in numbers.as_chunks::<LANES>().0 {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane = (*lane).max(x.to_bits() & 0x7fff_ffff);
            }
        }
        let largest = lanes.into_iter().fold(0, u32::max) >> 23;
        if largest < LEAST_EXPONENT {
            return Scale {
                scale: 0.0,
                inverse: 0.0,
            };
        }
        let exponent = (largest + 1).min(LARGEST_EXPONENT);
        Scale {
            scale: f32::from_bits(exponent << 23),
            inverse: f32::from_bits((254 - exponent) << 23),
        }
    }
}

#[inline(always)]
fn first_of(code: u8) -> f32 {
    let magnitude = float_of(u32::from(code & 0x7f), FIRST_ZERO) - FIRST_ZERO;
    f32::from_bits(magnitude.to_bits() | u32::from(code & 0x80) << 24)
}

#[inline(always)]
fn first_code(m: f32, inverse: f32, random: u32) -> u8 {
    let magnitude = m.abs().mul_add(inverse, FIRST_ZERO);
    let sign = (m.to_bits() >> 24) as u8 & 0x80;
    code_of(magnitude, FIRST_ZERO, random).min(0x7f) as u8 | sign
}

#[inline(always)]
fn second_of(code: u8) -> f32 {
    float_of(code.into(), SECOND_LEAST)
}

#[inline(always)]
fn second_code(v: f32, inverse: f32, random: u32) -> u8 {
    let scaled = v * inverse;
    let float = if scaled > SECOND_LEAST { scaled } else { SECOND_LEAST };
    code_of(float, SECOND_LEAST, random).min(0xff) as u8
}

/// The float of a code, `least` being that of code 0.
#[inline(always)]
fn float_of(code: u32, least: f32) -> f32 {
    f32::from_bits(least.to_bits() + (code << DROPPED))
}

/// The code at a float, or the one above it if `random`, of 16 bits, says so. It is not less than `least`.
#[inline(always)]
fn code_of(float: f32, least: f32, random: u32) -> u32 {
    (float.to_bits() + (random << (DROPPED - 16)) - least.to_bits()) >> DROPPED
}

/// What the places of a step are hashed with.
#[must_use]
pub fn seed(step: u64) -> u32 {
    hash(hash(step as u32).wrapping_add((step >> 32) as u32))
}

/// 32 random bits of a number: C. Wellons' `lowbias32`.
#[inline(always)]
fn hash(number: u32) -> u32 {
    let x = (number ^ (number >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests;
