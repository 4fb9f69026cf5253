//! The gated activation, as `edkm_kernels::swiglu`.
#![allow(unsafe_code)]

use crate::runtime::blocks_for;
use crate::Argument::Size;
use crate::{check, Runtime, Slice, SliceMut};

/// out = silu(gate) up. All of one length.
///
/// # Errors
/// The runtime's.
pub fn forward<R: Runtime>(
    runtime: &R,
    gate: Slice<'_, f32>,
    up: Slice<'_, f32>,
    mut out: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    check::len("gate", gate.len(), out.len());
    check::len("up", up.len(), out.len());
    let arguments = [gate.argument(), up.argument(), out.argument(), Size(out.len())];
    // SAFETY: edkm_swiglu_forward(gate, up, out, len) reaches `len` numbers of each, which is their length.
    unsafe { runtime.launch("edkm_swiglu_forward", blocks_for(out.len()), &arguments) }
}

/// Adds the gradients of `gate` and `up`. All of one length.
///
/// # Errors
/// The runtime's.
pub fn backward<R: Runtime>(
    runtime: &R,
    gate: Slice<'_, f32>,
    up: Slice<'_, f32>,
    grad_out: Slice<'_, f32>,
    mut grad_gate: SliceMut<'_, f32>,
    mut grad_up: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    check::len("up", up.len(), gate.len());
    check::len("grad_out", grad_out.len(), gate.len());
    check::len("grad_gate", grad_gate.len(), gate.len());
    check::len("grad_up", grad_up.len(), gate.len());
    let arguments = [
        gate.argument(),
        up.argument(),
        grad_out.argument(),
        grad_gate.argument(),
        grad_up.argument(),
        Size(gate.len()),
    ];
    // SAFETY: edkm_swiglu_backward(gate, up, grad_out, grad_gate, grad_up, len) reaches `len` numbers of each, which is their length.
    unsafe { runtime.launch("edkm_swiglu_backward", blocks_for(gate.len()), &arguments) }
}
