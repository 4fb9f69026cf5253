//! The gated activation of LLaMA's feed-forward part (arXiv 2002.05202): silu(gate) * up.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use dfdx::prelude::*;

use super::{apart, Matrix};
use crate::device::{contiguous, DeviceMemory};
use crate::gradients::{gradient_slot, lend_gradient, output_gradient};
use crate::tape::Shared;
use crate::{EdkmDevice, EdkmError, SaveAs, SaveForBackward};

/// The device's part of SwiGLU.
pub trait SwigluKernel: DeviceMemory {
    /// silu(gate) * up.
    fn swiglu_forward(&self, gate: Self::View<'_>, up: Self::View<'_>) -> Result<Self::Fresh, Self::Err>;

    /// Adds to the gradients of gate and up.
    fn swiglu_backward(
        &self,
        gate: Self::View<'_>,
        up: Self::View<'_>,
        grad_out: &<Self as Storage<f32>>::Vec,
        grad_gate: &mut <Self as Storage<f32>>::Vec,
        grad_up: &mut <Self as Storage<f32>>::Vec,
    ) -> Result<(), Self::Err>;
}

/// silu(gate) * up, element by element, for two matrices of one shape. Saves the two; the sigmoid is computed again,
/// and so is the product if another op needs it.
///
/// # Errors
/// Shapes that differ; a store that fails.
pub fn swiglu<D: EdkmDevice, T: SaveForBackward<D>>(
    gate: Matrix<D, T>,
    up: Matrix<D, T>,
) -> Result<Matrix<D, T>, D::Err> {
    let _span = tracing::trace_span!("swiglu").entered();
    let (gate, tape) = contiguous(gate)?.split_tape();
    let (up, up_tape) = apart(contiguous(up)?, |up| up == D::address(&gate))?.split_tape();
    let mut tape = tape.merge(up_tape);
    let device = gate.device().clone();
    let shape = *gate.shape();
    if shape != *up.shape() {
        return Err(tape.fail(EdkmError::Shape {
            op: "swiglu",
            expected: format!("up of the shape of gate, {shape:?}"),
            got: format!("{:?}", up.shape()),
        }));
    }
    let y = device.swiglu_forward(D::view(&gate), D::view(&up))?;
    let y = device.tensor_from_buffer(y, shape)?;
    if !T::OWNS_TAPE {
        return Ok(y.put_tape(tape));
    }
    let (gate_ghost, up_ghost, y_ghost) = (gate.ghost(), up.ghost(), y.ghost());
    let saved_gate = Shared::<_, D, T>::new(tape.save(gate, SaveAs::local("swiglu.gate"))?);
    let saved_up = Shared::<_, D, T>::new(tape.save(up, SaveAs::local("swiglu.up"))?);
    tape.remade_by(&y, {
        let (device, gate, up) = (device.clone(), saved_gate.clone(), saved_up.clone());
        move || {
            let (up, gate) = (up.get()?, gate.get()?);
            let y = device.swiglu_forward(D::view(&gate), D::view(&up))?;
            device.tensor_from_buffer(y, (shape.0 * shape.1,))
        }
    })?;
    tape.add_checked_op(move |grads| {
        let _span = tracing::trace_span!("swiglu backward").entered();
        let (up, gate) = (saved_up.get()?, saved_gate.get()?);
        let grad_y = output_gradient(&device, grads.get_or_alloc_mut(&y_ghost)?, &y_ghost)?;
        let mut grad_gate = lend_gradient(&device, grads.get_or_alloc_mut(&gate_ghost)?, &gate_ghost)?;
        let grad_up = gradient_slot(&device, grads.get_or_alloc_mut(&up_ghost)?, &up_ghost)?;
        device.swiglu_backward(D::view(&gate), D::view(&up), &grad_y, &mut grad_gate, grad_up)?;
        *grads.get_or_alloc_mut(&gate_ghost)? = grad_gate;
        Ok(())
    });
    Ok(y.put_tape(tape))
}
