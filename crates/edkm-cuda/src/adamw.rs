//! AdamW, as `edkm_kernels::adamw`.
#![allow(unsafe_code)]

use edkm_kernels::adamw::{eight_bit, Factors, Hyper};

use crate::runtime::{blocks, blocks_for, THREADS};
use crate::Argument::{Float, Size};
use crate::{check, Argument, Array, Runtime, Slice, SliceMut};

/// One step, in place. All four of one length, the moments zero before step 1.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// If `step` is 0.
pub fn update<R: Runtime>(
    runtime: &R,
    mut parameter: SliceMut<'_, f32>,
    gradient: Slice<'_, f32>,
    mut first: SliceMut<'_, f32>,
    mut second: SliceMut<'_, f32>,
    hyper: &Hyper,
) -> Result<(), R::Error> {
    let len = parameter.len();
    check::len("gradient", gradient.len(), len);
    check::len("first moment", first.len(), len);
    check::len("second moment", second.len(), len);
    assert!(hyper.step > 0, "steps are counted from 1");
    let memory = [
        parameter.argument(),
        gradient.argument(),
        first.argument(),
        second.argument(),
    ];
    let arguments = [&memory[..], &factors(hyper), &[Size(len)]].concat();
    // SAFETY: edkm_adamw_update(parameter, gradient, first, second, nine factors, len) reaches `len` numbers of each, which is their length.
    unsafe { runtime.launch("edkm_adamw_update", blocks_for(len), &arguments) }
}

/// The nine factors that a step is computed with, as both kernels take them.
fn factors(hyper: &Hyper) -> [Argument; 9] {
    let factors = Factors::of(hyper);
    [
        factors.grad_scale,
        factors.beta1,
        factors.one_minus_beta1,
        factors.beta2,
        factors.one_minus_beta2,
        factors.keep,
        factors.step_size,
        factors.inverse_root_correction2,
        factors.eps,
    ]
    .map(Float)
}

/// Moments of 8 bits each, as [`eight_bit::Moments`].
#[derive(Debug)]
pub struct EightBitMoments<'a> {
    /// Codes of the first moment, one a number.
    pub first: SliceMut<'a, u8>,
    /// Codes of the second moment, one a number.
    pub second: SliceMut<'a, u8>,
    /// `[blocks, 2]`
    pub scales: SliceMut<'a, f32>,
}

/// One step, in place, with moments of 8 bits each: all zeros before step 1.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// If the lengths do not belong together, or `step` is 0.
pub fn update_eight_bit<R: Runtime>(
    runtime: &R,
    mut parameter: SliceMut<'_, f32>,
    gradient: Slice<'_, f32>,
    moments: EightBitMoments<'_>,
    hyper: &Hyper,
) -> Result<(), R::Error> {
    /// Numbers of a block: a warp treats those that share their scales.
    const TOGETHER: usize = eight_bit::BLOCK * THREADS / 32;
    let EightBitMoments {
        mut first,
        mut second,
        mut scales,
    } = moments;
    let len = parameter.len();
    check::len("gradient", gradient.len(), len);
    check::len("first moment", first.len(), len);
    check::len("second moment", second.len(), len);
    check::len("scales [blocks, 2]", scales.len(), eight_bit::scales(len));
    assert!(hyper.step > 0, "steps are counted from 1");
    let memory = [
        parameter.argument(),
        gradient.argument(),
        first.argument(),
        second.argument(),
        scales.argument(),
    ];
    let seed = eight_bit::seed(hyper.step) as usize;
    let arguments = [&memory[..], &factors(hyper), &[Size(seed), Size(len)]].concat();
    // SAFETY: edkm_adamw_eight_bit(parameter, gradient, first, second, scales, nine factors, seed, len) reaches `len` numbers of the first four, which is
    // their length, and two scales for each 256 of them.
    unsafe { runtime.launch("edkm_adamw_eight_bit", blocks(len.div_ceil(TOGETHER)), &arguments) }
}

/// Blocks that share the sum of squares. Fixed: the sum must not depend on the device.
const BLOCKS: usize = 512;

/// The sum of the squares, in f64 and in a fixed order. Waits for the device.
///
/// # Errors
/// The runtime's.
pub fn sum_of_squares<R: Runtime>(runtime: &R, x: Slice<'_, f32>) -> Result<f64, R::Error> {
    let blocks = x.len().div_ceil(THREADS).clamp(1, BLOCKS);
    let mut partial = Array::<R, f64>::zeroed(runtime, blocks)?;
    let arguments = [x.argument(), partial.as_mut().argument(), Size(x.len())];
    // SAFETY: edkm_sum_of_squares(x, partial, len) reaches `len` numbers of x, and one of partial for each block.
    unsafe { runtime.launch("edkm_sum_of_squares", blocks as u32, &arguments) }?;
    Ok(partial.to_host(runtime)?.iter().sum())
}
