//! Kernels that treat each number on its own, and sums over rows.
#![allow(unsafe_code)]

use crate::runtime::blocks_for;
use crate::Argument::{Float, Size};
use crate::{check, Array, Runtime, Slice, SliceMut};

/// Rows that one thread sums in one go. Fixed: sums must not depend on the device.
pub(crate) const ROWS_IN_PIECE: usize = 64;

/// out = x + y. All of one length.
///
/// # Errors
/// The runtime's.
pub fn add<R: Runtime>(
    runtime: &R,
    x: Slice<'_, f32>,
    y: Slice<'_, f32>,
    mut out: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    check::len("x", x.len(), out.len());
    check::len("y", y.len(), out.len());
    let arguments = [x.argument(), y.argument(), out.argument(), Size(out.len())];
    // SAFETY: edkm_add(x, y, out, len) reaches `len` numbers of each, which is their length.
    unsafe { runtime.launch("edkm_add", blocks_for(out.len()), &arguments) }
}

/// to += factor x times x from, with `times` one number and the others of one length.
///
/// # Errors
/// The runtime's.
pub fn add_times<R: Runtime>(
    runtime: &R,
    mut to: SliceMut<'_, f32>,
    from: Slice<'_, f32>,
    factor: f32,
    times: Slice<'_, f32>,
) -> Result<(), R::Error> {
    check::len("from", from.len(), to.len());
    check::len("times", times.len(), 1);
    let arguments = [
        to.argument(),
        from.argument(),
        Float(factor),
        times.argument(),
        Size(to.len()),
    ];
    // SAFETY: edkm_add_times(to, from, factor, times, len) reaches `len` numbers of to and from, which is their length, and one of times.
    unsafe { runtime.launch("edkm_add_times", blocks_for(to.len()), &arguments) }
}

/// to += from. Both of one length.
///
/// # Errors
/// The runtime's.
pub fn add_assign<R: Runtime>(runtime: &R, mut to: SliceMut<'_, f32>, from: Slice<'_, f32>) -> Result<(), R::Error> {
    check::len("from", from.len(), to.len());
    let arguments = [to.argument(), from.argument(), Size(to.len())];
    // SAFETY: edkm_add_assign(to, from, len) reaches `len` numbers of each, which is their length.
    unsafe { runtime.launch("edkm_add_assign", blocks_for(to.len()), &arguments) }
}

/// x *= factor.
///
/// # Errors
/// The runtime's.
pub fn scale<R: Runtime>(runtime: &R, mut x: SliceMut<'_, f32>, factor: f32) -> Result<(), R::Error> {
    let arguments = [x.argument(), Float(factor), Size(x.len())];
    // SAFETY: edkm_scale(x, factor, len) reaches `len` numbers, which is the length.
    unsafe { runtime.launch("edkm_scale", blocks_for(x.len()), &arguments) }
}

/// Adds `bias [W]` to each row of `y [N, W]`.
///
/// # Errors
/// The runtime's.
pub fn add_to_rows<R: Runtime>(runtime: &R, mut y: SliceMut<'_, f32>, bias: Slice<'_, f32>) -> Result<(), R::Error> {
    let width = bias.len();
    check::rows("y [N, W]", y.len(), width);
    let arguments = [y.argument(), bias.argument(), Size(width), Size(y.len())];
    // SAFETY: edkm_add_to_rows(y, bias, width, len) reaches `len` numbers of y and `width` of bias, which are their lengths.
    unsafe { runtime.launch("edkm_add_to_rows", blocks_for(y.len()), &arguments) }
}

/// Adds the sum of the rows of `x [N, W]` to `to [W]`. Scratch: ceil(N / 64) x W x 4 bytes.
///
/// # Errors
/// The runtime's.
pub fn add_sum_of_rows<R: Runtime>(runtime: &R, x: Slice<'_, f32>, to: SliceMut<'_, f32>) -> Result<(), R::Error> {
    let width = to.len();
    let rows = check::rows("x [N, W]", x.len(), width);
    let pieces = rows.div_ceil(ROWS_IN_PIECE);
    let mut partial = Array::zeroed(runtime, pieces * width)?;
    let arguments = [
        x.argument(),
        partial.as_mut().argument(),
        Size(rows),
        Size(width),
        Size(ROWS_IN_PIECE),
        Size(pieces),
    ];
    // SAFETY: edkm_sum_pieces(x, partial, rows, width, rows_in_piece, pieces) reaches rows x width numbers of x and pieces x width of partial.
    unsafe { runtime.launch("edkm_sum_pieces", blocks_for(pieces * width), &arguments) }?;
    add_pieces(runtime, partial.as_slice(), to)
}

/// Adds the sum of the rows of `partial [pieces, W]` to `to [W]`, in order.
pub(crate) fn add_pieces<R: Runtime>(
    runtime: &R,
    partial: Slice<'_, f32>,
    mut to: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let width = to.len();
    let pieces = check::rows("partial [pieces, W]", partial.len(), width);
    let arguments = [partial.argument(), to.argument(), Size(width), Size(pieces)];
    // SAFETY: edkm_add_pieces(partial, to, width, pieces) reaches pieces x width numbers of partial and `width` of to.
    unsafe { runtime.launch("edkm_add_pieces", blocks_for(width), &arguments) }
}
