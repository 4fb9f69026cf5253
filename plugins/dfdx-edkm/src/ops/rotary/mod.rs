//! Rotary position embedding (arXiv 2104.09864), in the layout of Hugging Face's LLaMA: element i turns with i + D/2.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use std::sync::Arc;

use dfdx::prelude::*;
use edkm_kernels::rotary::Table;

use super::Matrix;
use crate::device::{contiguous, DeviceMemory};
use crate::gradients::{gradient_slot, output_gradient};
use crate::{EdkmDevice, EdkmError, SaveForBackward};

/// Where the tokens of a matrix stand: row n is position `n % seq` of its sequence.
#[derive(Debug, Clone)]
pub struct RotaryDims {
    /// Cosines and sines of each position.
    pub table: Arc<Table>,
    /// Heads side by side in a row.
    pub heads: usize,
    /// Tokens of one sequence.
    pub seq: usize,
}

/// The device's part of the rotary embedding.
pub trait RotaryKernel: DeviceMemory {
    /// x turned by the angles of its positions.
    fn rotary_forward(&self, dims: &RotaryDims, x: Self::View<'_>) -> Result<Self::Fresh, Self::Err>;

    /// dx += dy turned back; dy is used up.
    fn rotary_backward(
        &self,
        dims: &RotaryDims,
        grad_out: &mut <Self as Storage<f32>>::Vec,
        grad_x: &mut <Self as Storage<f32>>::Vec,
    ) -> Result<(), Self::Err>;
}

/// Turns each head of x `[batch * seq, heads * head_dim]` by the angles of its position. Saves nothing: a rotation is undone by its
/// transpose.
///
/// # Errors
/// Shapes that do not fit the table.
pub fn rotary<D: EdkmDevice, T: SaveForBackward<D>>(x: Matrix<D, T>, dims: RotaryDims) -> Result<Matrix<D, T>, D::Err> {
    let _span = tracing::trace_span!("rotary").entered();
    let (x, mut tape) = contiguous(x)?.split_tape();
    let device = x.device().clone();
    let shape = *x.shape();
    let head_dim = dims.table.head_dim();
    if shape.1 != dims.heads * head_dim || dims.seq == 0 || shape.0 % dims.seq != 0 || dims.seq > dims.table.positions()
    {
        return Err(tape.fail(EdkmError::Shape {
            op: "rotary",
            expected: format!(
                "whole sequences of {} tokens (at most {} positions), rows of {} heads of {head_dim}",
                dims.seq,
                dims.table.positions(),
                dims.heads
            ),
            got: format!("x {shape:?}"),
        }));
    }
    let y = device.rotary_forward(&dims, D::view(&x))?;
    let y = device.tensor_from_buffer(y, shape)?;
    let (x_ghost, y_ghost) = (x.ghost(), y.ghost());
    tape.add_checked_op(move |grads| {
        let _span = tracing::trace_span!("rotary backward").entered();
        let mut grad_y = output_gradient(&device, grads.get_or_alloc_mut(&y_ghost)?, &y_ghost)?;
        device.rotary_backward(
            &dims,
            &mut grad_y,
            gradient_slot(&device, grads.get_or_alloc_mut(&x_ghost)?, &x_ghost)?,
        )
    });
    Ok(y.put_tape(tape))
}
