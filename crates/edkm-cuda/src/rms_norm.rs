//! Root-mean-square normalisation, as `edkm_kernels::rms_norm`.
#![allow(unsafe_code)]

use crate::elementwise::{add_pieces, ROWS_IN_PIECE};
use crate::runtime::{blocks, blocks_for};
use crate::Argument::{Float, Size};
use crate::{check, Array, Runtime, Slice, SliceMut};

/// out = x / rms(x) * weight for each row. `x`, `out [N, H]`, `weight [H]`.
///
/// # Errors
/// The runtime's.
pub fn forward<R: Runtime>(
    runtime: &R,
    x: Slice<'_, f32>,
    weight: Slice<'_, f32>,
    eps: f32,
    mut out: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let width = weight.len();
    let rows = check::rows("x [N, H]", x.len(), width);
    check::len("out [N, H]", out.len(), x.len());
    let arguments = [
        x.argument(),
        weight.argument(),
        Float(eps),
        out.argument(),
        Size(rows),
        Size(width),
    ];
    // SAFETY: edkm_rms_norm_forward(x, weight, eps, out, rows, width) reaches rows x width numbers of x and out, and `width` of weight.
    unsafe { runtime.launch("edkm_rms_norm_forward", blocks(rows), &arguments) }
}

/// Adds the gradients of `x` and `weight`. `x`, `grad_out`, `grad_x [N, H]`, `weight`, `grad_weight [H]`.
///
/// Scratch: (N + ceil(N / 64) x H) x 4 bytes.
///
/// # Errors
/// The runtime's.
pub fn backward<R: Runtime>(
    runtime: &R,
    x: Slice<'_, f32>,
    weight: Slice<'_, f32>,
    eps: f32,
    grad_out: Slice<'_, f32>,
    mut grad_x: SliceMut<'_, f32>,
    grad_weight: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let width = weight.len();
    let rows = check::rows("x [N, H]", x.len(), width);
    check::len("grad_out [N, H]", grad_out.len(), x.len());
    check::len("grad_x [N, H]", grad_x.len(), x.len());
    check::len("grad_weight [H]", grad_weight.len(), width);
    let mut inverse = Array::<R, f32>::zeroed(runtime, rows)?;
    let arguments = [
        x.argument(),
        weight.argument(),
        Float(eps),
        grad_out.argument(),
        grad_x.argument(),
        inverse.as_mut().argument(),
        Size(rows),
        Size(width),
    ];
    // SAFETY: edkm_rms_norm_backward(x, weight, eps, grad_out, grad_x, inverse_of_row, rows, width) reaches rows x width numbers of x, grad_out and
    // grad_x, `width` of weight and `rows` of inverse_of_row.
    unsafe { runtime.launch("edkm_rms_norm_backward", blocks(rows), &arguments) }?;

    let pieces = rows.div_ceil(ROWS_IN_PIECE);
    let mut partial = Array::<R, f32>::zeroed(runtime, pieces * width)?;
    let arguments = [
        x.argument(),
        grad_out.argument(),
        inverse.as_slice().argument(),
        partial.as_mut().argument(),
        Size(rows),
        Size(width),
        Size(ROWS_IN_PIECE),
        Size(pieces),
    ];
    // SAFETY: edkm_rms_norm_weight_pieces(x, grad_out, inverse_of_row, partial, rows, width, rows_in_piece, pieces) reaches rows x width numbers of x
    // and grad_out, `rows` of inverse_of_row and pieces x width of partial.
    unsafe { runtime.launch("edkm_rms_norm_weight_pieces", blocks_for(pieces * width), &arguments) }?;
    add_pieces(runtime, partial.as_slice(), grad_weight)
}
