//! AdamW, as `edkm_kernels::adamw`.
#![allow(unsafe_code)]

use edkm_kernels::adamw::{Factors, Hyper};

use crate::runtime::{blocks_for, THREADS};
use crate::Argument::{Float, Size};
use crate::{check, Array, Runtime, Slice, SliceMut};

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
    let factors = Factors::of(hyper);
    let arguments = [
        parameter.argument(),
        gradient.argument(),
        first.argument(),
        second.argument(),
        Float(factors.grad_scale),
        Float(factors.beta1),
        Float(factors.one_minus_beta1),
        Float(factors.beta2),
        Float(factors.one_minus_beta2),
        Float(factors.keep),
        Float(factors.step_size),
        Float(factors.inverse_root_correction2),
        Float(factors.eps),
        Size(len),
    ];
    // SAFETY: edkm_adamw_update(parameter, gradient, first, second, nine factors, len) reaches `len` numbers of each, which is their length.
    unsafe { runtime.launch("edkm_adamw_update", blocks_for(len), &arguments) }
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
