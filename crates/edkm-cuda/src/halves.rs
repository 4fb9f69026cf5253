//! Numbers as 16-bit floats, and back.
#![allow(unsafe_code)]

use half::{bf16, f16};

use crate::runtime::blocks_for;
use crate::Argument::Size;
use crate::{check, Argument, Runtime, Slice, SliceMut};

/// A 16-bit format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// bfloat16
    Bf16,
    /// IEEE 754 half precision
    F16,
}

impl Half {
    pub(crate) fn argument(self) -> Argument {
        Size(match self {
            Half::Bf16 => 0,
            Half::F16 => 1,
        })
    }

    /// The bits of the nearest number, as the device rounds.
    pub(crate) fn key(self, number: f32) -> u16 {
        match self {
            Half::Bf16 => bf16::from_f32(number).to_bits(),
            Half::F16 => f16::from_f32(number).to_bits(),
        }
    }
}

/// halves = x in 16 bits, rounded to nearest, ties to even: within 2^-9 (bf16) or 2^-12 (f16) of each finite number, relatively, while it is a normal number
/// there and does not round to infinity. A NaN stays one. Both of one length.
///
/// # Errors
/// The runtime's.
pub fn round<R: Runtime>(
    runtime: &R,
    x: Slice<'_, f32>,
    kind: Half,
    mut halves: SliceMut<'_, u16>,
) -> Result<(), R::Error> {
    let len = x.len();
    check::len("halves", halves.len(), len);
    let arguments = [x.argument(), halves.argument(), kind.argument(), Size(len)];
    // SAFETY: edkm_round_to_half(x, halves, kind, len) reaches `len` numbers of each.
    unsafe { runtime.launch("edkm_round_to_half", blocks_for(len), &arguments) }
}

/// x = the numbers of the `halves`, exactly. Both of one length.
///
/// # Errors
/// The runtime's.
pub fn widen<R: Runtime>(
    runtime: &R,
    halves: Slice<'_, u16>,
    kind: Half,
    mut x: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let len = halves.len();
    check::len("x", x.len(), len);
    let arguments = [halves.argument(), x.argument(), kind.argument(), Size(len)];
    // SAFETY: edkm_widen_half(halves, x, kind, len) reaches `len` numbers of each.
    unsafe { runtime.launch("edkm_widen_half", blocks_for(len), &arguments) }
}
