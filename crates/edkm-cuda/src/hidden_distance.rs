//! How far hidden states are from another model's, as `edkm_kernels::hidden_distance`.
#![allow(unsafe_code)]

use crate::runtime::blocks;
use crate::Argument::Size;
use crate::{check, Array, Runtime, Slice, SliceMut};

/// The sum over rows of |x - y|^2 / |y|^2, and out = (x - y) / |y|^2 in each of them. `x`, `y`, `out [N, H]`, with H = `width`. Waits for the device.
///
/// Scratch: N x 4 bytes.
///
/// # Errors
/// The runtime's.
pub fn forward<R: Runtime>(
    runtime: &R,
    x: Slice<'_, f32>,
    y: Slice<'_, f32>,
    width: usize,
    mut out: SliceMut<'_, f32>,
) -> Result<f64, R::Error> {
    let rows = check::rows("x [N, H]", x.len(), width);
    check::len("y [N, H]", y.len(), x.len());
    check::len("out [N, H]", out.len(), x.len());
    let mut of_row = Array::<R, f32>::zeroed(runtime, rows)?;
    let arguments = [
        x.argument(),
        y.argument(),
        out.argument(),
        of_row.as_mut().argument(),
        Size(rows),
        Size(width),
    ];
    // SAFETY: edkm_hidden_distance(x, y, out, of_row, rows, width) reaches rows x width numbers of x, y and out, and `rows` of of_row.
    unsafe { runtime.launch("edkm_hidden_distance", blocks(rows), &arguments) }?;
    Ok(of_row
        .to_host(runtime)?
        .iter()
        .map(|&distance| f64::from(distance))
        .sum())
}
