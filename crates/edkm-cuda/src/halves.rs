//! Numbers as bf16, and back.
#![allow(unsafe_code)]

use crate::runtime::blocks_for;
use crate::Argument::Size;
use crate::{check, Runtime, Slice, SliceMut};

/// halves = x as bf16, rounded to nearest, ties to even: within 2^-8 of each finite number, relatively, while it is a normal number and does not round to
/// infinity. A NaN stays one. Both of one length.
///
/// # Errors
/// The runtime's.
pub fn round<R: Runtime>(runtime: &R, x: Slice<'_, f32>, mut halves: SliceMut<'_, u16>) -> Result<(), R::Error> {
    let len = x.len();
    check::len("halves", halves.len(), len);
    let arguments = [x.argument(), halves.argument(), Size(len)];
    // SAFETY: edkm_to_bf16(x, halves, len) reaches `len` numbers of each.
    unsafe { runtime.launch("edkm_to_bf16", blocks_for(len), &arguments) }
}

/// x = the numbers of the bf16 `halves`, exactly. Both of one length.
///
/// # Errors
/// The runtime's.
pub fn widen<R: Runtime>(runtime: &R, halves: Slice<'_, u16>, mut x: SliceMut<'_, f32>) -> Result<(), R::Error> {
    let len = halves.len();
    check::len("x", x.len(), len);
    let arguments = [halves.argument(), x.argument(), Size(len)];
    // SAFETY: edkm_from_bf16(halves, x, len) reaches `len` numbers of each.
    unsafe { runtime.launch("edkm_from_bf16", blocks_for(len), &arguments) }
}
