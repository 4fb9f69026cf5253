//! x + y for two matrices of one shape: a residual connection that keeps no gradient longer than needed.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use dfdx::prelude::*;

use super::Matrix;
use crate::device::{contiguous, DeviceMemory};
use crate::gradients::{gradient_slot, output_gradient};
use crate::{EdkmDevice, EdkmError, SaveForBackward};

/// The device's part of a sum.
pub trait AddKernel: DeviceMemory {
    /// x + y.
    fn add_forward(&self, x: Self::View<'_>, y: Self::View<'_>) -> Result<Self::Fresh, Self::Err>;

    /// grad += grad_out.
    fn add_backward(
        &self,
        grad_out: &<Self as Storage<f32>>::Vec,
        grad: &mut <Self as Storage<f32>>::Vec,
    ) -> Result<(), Self::Err>;

    /// So many -0.0: what changes no bit of a number that it is added to, nor of one that is added to it.
    fn negative_zeros(&self, len: usize) -> Result<<Self as Storage<f32>>::Vec, Self::Err>;
}

/// x + y. Saves nothing.
///
/// # Errors
/// Shapes that differ.
pub fn add<D: EdkmDevice, T: SaveForBackward<D>>(x: Matrix<D, T>, y: Matrix<D, T>) -> Result<Matrix<D, T>, D::Err> {
    let _span = tracing::trace_span!("add").entered();
    let (x, tape) = contiguous(x)?.split_tape();
    let (y, y_tape) = contiguous(y)?.split_tape();
    let mut tape = tape.merge(y_tape);
    let device = x.device().clone();
    let shape = *x.shape();
    if shape != *y.shape() {
        return Err(tape.fail(EdkmError::Shape {
            op: "add",
            expected: format!("a second summand of the shape of the first, {shape:?}"),
            got: format!("{:?}", y.shape()),
        }));
    }
    let sum = device.add_forward(D::view(&x), D::view(&y))?;
    let sum = device.tensor_from_buffer(sum, shape)?;
    let (x_ghost, y_ghost, sum_ghost) = (x.ghost(), y.ghost(), sum.ghost());
    tape.add_checked_op(move |grads| {
        let _span = tracing::trace_span!("add backward").entered();
        let grad_sum = output_gradient(&device, grads.get_or_alloc_mut(&sum_ghost)?, &sum_ghost)?;
        device.add_backward(
            &grad_sum,
            gradient_slot(&device, grads.get_or_alloc_mut(&x_ghost)?, &x_ghost)?,
        )?;
        device.add_backward(
            &grad_sum,
            gradient_slot(&device, grads.get_or_alloc_mut(&y_ghost)?, &y_ghost)?,
        )
    });
    Ok(sum.put_tape(tape))
}
