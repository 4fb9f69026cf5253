//! A factor for each row of a weight, its root mean square rounded to bf16, by which rows of different spread share palettes: W~ = s V~(V) with V = W / s.
//!
//! The gradient goes through the factors, their rounding passed over: ds/dw = v / width.
#![allow(unsafe_code)]

use crate::runtime::blocks;
use crate::Argument::Size;
use crate::{check, Array, Runtime, Slice, SliceMut};

/// A weight whose rows were divided by their factors.
pub struct Divided<R: Runtime> {
    /// V `[rows, cols]`
    pub weight: Array<R, f32>,
    /// s `[rows]`: finite, above 0, and exact in bf16. 1 for a row of zeros, or one that is not finite.
    pub scales: Array<R, f32>,
}

/// Divides each row of `weight [rows, cols]` by its factor. Memory: the weight's size.
///
/// # Errors
/// The runtime's.
pub fn divided<R: Runtime>(runtime: &R, weight: Slice<'_, f32>, cols: usize) -> Result<Divided<R>, R::Error> {
    let rows = check::rows("weight [rows, cols]", weight.len(), cols);
    let mut divided = Divided {
        weight: Array::unset(runtime, weight.len())?,
        scales: Array::unset(runtime, rows)?,
    };
    let arguments = [
        weight.argument(),
        divided.scales.as_mut().argument(),
        divided.weight.as_mut().argument(),
        Size(rows),
        Size(cols),
    ];
    // SAFETY: edkm_divide_rows(x, scales, out, rows, width) reaches rows x width numbers of x and out, and `rows` of scales.
    unsafe { runtime.launch("edkm_divide_rows", blocks(rows), &arguments) }?;
    Ok(divided)
}

/// Multiplies each row of `numbers [rows, cols]` by its factor in `scales [rows]`.
///
/// # Errors
/// The runtime's.
pub fn multiply<R: Runtime>(
    runtime: &R,
    mut numbers: SliceMut<'_, f32>,
    scales: Slice<'_, f32>,
) -> Result<(), R::Error> {
    let cols = check::rows("numbers [rows, cols]", numbers.len(), scales.len());
    let arguments = [numbers.argument(), scales.argument(), Size(scales.len()), Size(cols)];
    // SAFETY: edkm_multiply_rows(x, scales, rows, width) reaches rows x width numbers of x, and `rows` of scales.
    unsafe { runtime.launch("edkm_multiply_rows", blocks(scales.len()), &arguments) }
}

/// Takes dL/dW~ `grad [rows, cols]` through the multiplication W~ = s V~: V~, in `numbers [rows, cols]`, gives its place to dL/dV~. Gives dL/ds `[rows]` as
/// far as V stays.
///
/// # Errors
/// The runtime's.
pub fn multiplication_backward<R: Runtime>(
    runtime: &R,
    grad: Slice<'_, f32>,
    scales: Slice<'_, f32>,
    mut numbers: SliceMut<'_, f32>,
) -> Result<Array<R, f64>, R::Error> {
    let rows = scales.len();
    let cols = check::rows("numbers [rows, cols]", numbers.len(), rows);
    check::len("grad [rows, cols]", grad.len(), numbers.len());
    let mut grad_scales = Array::unset(runtime, rows)?;
    let arguments = [
        grad.argument(),
        scales.argument(),
        numbers.argument(),
        grad_scales.as_mut().argument(),
        Size(rows),
        Size(cols),
    ];
    // SAFETY: edkm_rows_backward(grad, scales, clustered, products, rows, width) reaches rows x width numbers of grad and clustered, and `rows` of scales
    // and products.
    unsafe { runtime.launch("edkm_rows_backward", blocks(rows), &arguments) }?;
    Ok(grad_scales)
}

/// Takes dL/dV `grad [rows, cols]`, and dL/ds `grad_scales [rows]` as far as V stays, through the division V = W / s and through s: adds dL/dW to
/// `total [rows, cols]`.
///
/// # Errors
/// The runtime's.
pub fn add_through_division<R: Runtime>(
    runtime: &R,
    divided: &Divided<R>,
    grad: Slice<'_, f32>,
    grad_scales: Slice<'_, f64>,
    mut total: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let (weight, scales) = (divided.weight.as_slice(), divided.scales.as_slice());
    let rows = scales.len();
    let cols = check::rows("V [rows, cols]", weight.len(), rows);
    check::len("grad [rows, cols]", grad.len(), weight.len());
    check::len("grad_scales [rows]", grad_scales.len(), rows);
    check::len("total [rows, cols]", total.len(), weight.len());
    let arguments = [
        grad.argument(),
        weight.argument(),
        scales.argument(),
        grad_scales.argument(),
        total.argument(),
        Size(rows),
        Size(cols),
    ];
    // SAFETY: edkm_add_through_rows(grad, divided, scales, products, total, rows, width) reaches rows x width numbers of grad, divided and total, and
    // `rows` of scales and products.
    unsafe { runtime.launch("edkm_add_through_rows", blocks(rows), &arguments) }
}
