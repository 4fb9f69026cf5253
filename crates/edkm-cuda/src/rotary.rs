//! Rotary position embedding, as `edkm_kernels::rotary`.
#![allow(unsafe_code)]

use edkm_kernels::rotary::Table;

use crate::runtime::blocks_for;
use crate::Argument::Size;
use crate::{check, Array, Runtime, Slice, SliceMut};

/// Cosines and sines in a device's memory, for the positions of one sequence.
pub struct Angles<R: Runtime> {
    /// `[S, D/2]`
    cosines: Array<R, f32>,
    /// `[S, D/2]`
    sines: Array<R, f32>,
    half: usize,
    seq: usize,
}

impl<R: Runtime> Angles<R> {
    /// The first `seq` positions of a table. Memory: S x D x 4 bytes.
    ///
    /// # Errors
    /// The runtime's.
    ///
    /// # Panics
    /// If the table serves fewer positions.
    pub fn new(runtime: &R, table: &Table, seq: usize) -> Result<Self, R::Error> {
        assert!(
            seq <= table.positions(),
            "{seq} positions are asked of a rotary table of {}",
            table.positions()
        );
        let half = table.head_dim() / 2;
        Ok(Angles {
            cosines: Array::from_host(runtime, &table.cosines()[..seq * half])?,
            sines: Array::from_host(runtime, &table.sines()[..seq * half])?,
            half,
            seq,
        })
    }

    /// Positions: S.
    pub fn positions(&self) -> usize {
        self.seq
    }
}

/// out = x turned by the angles of its positions. `x`, `out [N, heads, D]`; token n stands at position n mod S.
///
/// # Errors
/// The runtime's.
pub fn forward<R: Runtime>(
    runtime: &R,
    angles: &Angles<R>,
    heads: usize,
    x: Slice<'_, f32>,
    out: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    launch(runtime, "edkm_rotary_forward", angles, heads, x, out)
}

/// x turned in place by the angles of each token's position; NaN for a position beyond S. `x [N, heads, D]`, `positions [N]`.
///
/// # Errors
/// The runtime's.
pub fn turn_at<R: Runtime>(
    runtime: &R,
    angles: &Angles<R>,
    positions: Slice<'_, u32>,
    mut x: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let pairs = x.len() / 2;
    let heads = match positions.len() {
        0 => 0,
        tokens => x.len() / (tokens * 2 * angles.half),
    };
    check::len("x [N, heads, D]", x.len(), positions.len() * heads * 2 * angles.half);
    if pairs == 0 {
        return Ok(());
    }
    let arguments = [
        x.argument(),
        angles.cosines.as_slice().argument(),
        angles.sines.as_slice().argument(),
        positions.argument(),
        Size(heads),
        Size(angles.half),
        Size(angles.seq),
        Size(pairs),
    ];
    // SAFETY: edkm_rotary_at(x, cosines, sines, positions, heads, half, seq, pairs) reaches 2 x pairs numbers of x, which are whole tokens of `heads`
    // heads, as many positions as tokens, and seq x half of the angles.
    unsafe { runtime.launch("edkm_rotary_at", blocks_for(pairs), &arguments) }
}

/// grad_x += grad_out turned back. Axes as [`forward`].
///
/// # Errors
/// The runtime's.
pub fn backward<R: Runtime>(
    runtime: &R,
    angles: &Angles<R>,
    heads: usize,
    grad_out: Slice<'_, f32>,
    grad_x: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    launch(runtime, "edkm_rotary_backward", angles, heads, grad_out, grad_x)
}

fn launch<R: Runtime>(
    runtime: &R,
    kernel: &'static str,
    angles: &Angles<R>,
    heads: usize,
    from: Slice<'_, f32>,
    mut to: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let of_token = check::product("numbers of a token [heads, D]", [heads, 2, angles.half])?;
    check::rows("x [N, heads, D]", from.len(), of_token);
    check::len("out [N, heads, D]", to.len(), from.len());
    let pairs = from.len() / 2;
    let arguments = [
        from.argument(),
        angles.cosines.as_slice().argument(),
        angles.sines.as_slice().argument(),
        to.argument(),
        Size(heads),
        Size(angles.half),
        Size(angles.seq),
        Size(pairs),
    ];
    // SAFETY: both kernels take (from, cosines, sines, to, heads, half, seq, pairs) and reach 2 x pairs numbers of from and to, which are whole
    // tokens of `heads` heads, and seq x half of the angles.
    unsafe { runtime.launch(kernel, blocks_for(pairs), &arguments) }
}
