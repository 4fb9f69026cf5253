//! Gradient checkpointing for any dfdx sub-model: only its input is saved; backward runs it again.

use dfdx::prelude::*;

use crate::device::{contiguous, take_gradient, DeviceMemory};
use crate::{SaveAs, SaveForBackward, StoreTape};

/// Applies `module` to `x`, saving `x` alone (through the tape's store). Panics where [`try_checkpoint`] fails.
pub fn checkpoint<M, S, Out, D, T>(module: &M, x: Tensor<S, f32, D, T>) -> Tensor<Out, f32, D, T>
where
    S: Shape,
    Out: Shape,
    D: DeviceMemory,
    T: SaveForBackward<D>,
    M: Module<Tensor<S, f32, D>, Output = Tensor<Out, f32, D>, Error = D::Err>
        + Module<Tensor<S, f32, D, StoreTape<f32, D>>, Output = Tensor<Out, f32, D, StoreTape<f32, D>>, Error = D::Err>
        + Clone
        + 'static,
{
    try_checkpoint(module, x).expect("checkpoint failed; try_checkpoint returns the error")
}

/// Applies `module` to `x`, saving `x` alone (through the tape's store): memory of one input in place of everything inside, at
/// the time of a second forward pass. Gradients of `x` and of every parameter are bitwise those of `module.try_forward(x)`.
///
/// `module` must compute the same when it is run again: no dropout. It is cloned (dfdx modules share their storage with clones) and may
/// contain checkpointed parts itself.
///
/// # Errors
/// Those of the module, and of the store (reported by [`crate::backward`]).
pub fn try_checkpoint<M, S, Out, D, T>(module: &M, x: Tensor<S, f32, D, T>) -> Result<Tensor<Out, f32, D, T>, D::Err>
where
    S: Shape,
    Out: Shape,
    D: DeviceMemory,
    T: SaveForBackward<D>,
    M: Module<Tensor<S, f32, D>, Output = Tensor<Out, f32, D>, Error = D::Err>
        + Module<Tensor<S, f32, D, StoreTape<f32, D>>, Output = Tensor<Out, f32, D, StoreTape<f32, D>>, Error = D::Err>
        + Clone
        + 'static,
{
    let (x, mut tape) = contiguous(x)?.split_tape();
    let out = module.try_forward(x.clone())?;
    if !T::OWNS_TAPE {
        return Ok(out.put_tape(tape));
    }
    // after the forward pass, so that what the module found out (palettes) is in the clone
    let module = module.clone();
    let device = x.device().clone();
    let (x_ghost, out_ghost) = (x.ghost(), out.ghost());
    let segment = tape.segment();
    let saved = tape.save(x, SaveAs::local("checkpoint.x"))?;
    tape.add_backward_op(move |grads| {
        let _span = tracing::trace_span!("checkpoint backward").entered();
        let x = T::load(saved)?;
        let inner_x_ghost = x.ghost();
        // The loaded tensor may be another one for dfdx: let its gradient grow on top of what x has, as it would without checkpoint.
        let grad_x = take_gradient(&device, grads.get_or_alloc_mut(&x_ghost)?)?;
        *grads.get_or_alloc_mut(&inner_x_ghost)? = grad_x;
        let (inner_out, inner_tape) = module.try_forward(x.put_tape(segment.tape()))?.split_tape();
        let grad_out = take_gradient(&device, grads.get_or_alloc_mut(&out_ghost)?)?;
        *grads.get_or_alloc_mut(&inner_out)? = grad_out;
        drop(inner_out);
        inner_tape.run(grads)?;
        let grad_x = take_gradient(&device, grads.get_or_alloc_mut(&inner_x_ghost)?)?;
        *grads.get_or_alloc_mut(&x_ghost)? = grad_x;
        Ok(())
    });
    Ok(out.put_tape(tape))
}
