//! Gradient checkpointing for any dfdx sub-model: only its input is saved; backward runs it again.

use std::cell::RefCell;
use std::rc::Rc;

use dfdx::optim::UnusedTensors;
use dfdx::prelude::*;
use dfdx::tensor::UniqueId;

use crate::device::{contiguous, DeviceMemory};
use crate::gradients::{gradient_slot, lend_gradient, output_gradient};
use crate::ops::add::AddKernel;
use crate::save::SegmentTape;
use crate::{SaveAs, SaveForBackward, StoreTape};

/// Applies `module` to `x`, saving `x` alone (through the tape's store). Panics where [`try_checkpoint`] fails.
pub fn checkpoint<M, S, Out, D, T>(module: &M, x: Tensor<S, f32, D, T>) -> Tensor<Out, f32, D, T>
where
    S: Shape,
    Out: Shape,
    D: AddKernel,
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
    D: AddKernel,
    T: SaveForBackward<D>,
    M: Module<Tensor<S, f32, D>, Output = Tensor<Out, f32, D>, Error = D::Err>
        + Module<Tensor<S, f32, D, StoreTape<f32, D>>, Output = Tensor<Out, f32, D, StoreTape<f32, D>>, Error = D::Err>
        + Clone
        + 'static,
{
    // cloned after the forward pass, so that what the module found out (palettes) is in the clone
    segment(x, Output::Saved, |x| module.try_forward(x), || module.clone())
}

/// [`try_checkpoint`] of what is no module, or of one that is given more than `x`: `first` is applied now, and `again`, which is called after it, makes
/// the module that computes the same in backward.
///
/// # Errors
/// Those of [`try_checkpoint`].
pub fn try_checkpoint_with<M, S, Out, D, T>(
    x: Tensor<S, f32, D, T>,
    first: impl FnOnce(Tensor<S, f32, D>) -> Result<Tensor<Out, f32, D>, D::Err>,
    again: impl FnOnce() -> M,
) -> Result<Tensor<Out, f32, D, T>, D::Err>
where
    S: Shape,
    Out: Shape,
    D: AddKernel,
    T: SaveForBackward<D>,
    M: Module<Tensor<S, f32, D, StoreTape<f32, D>>, Output = Tensor<Out, f32, D, StoreTape<f32, D>>, Error = D::Err>
        + 'static,
{
    segment(x, Output::Saved, first, again)
}

/// Applies `first` to `x`, saving `x` alone as [`try_checkpoint`] does, and not even the output is saved by the op that reads it: when that
/// op's backward asks for it, the segment is run again, once for the op and for its own backward. For a segment whose output feeds a
/// matrix product and little else, such as attention before its output projection.
///
/// `again` is called after `first` and makes the module that is run in backward; it must compute the same.
///
/// # Errors
/// Those of [`try_checkpoint`].
pub fn try_rematerialize<M, S, Out, D, T>(
    x: Tensor<S, f32, D, T>,
    first: impl FnOnce(Tensor<S, f32, D>) -> Result<Tensor<Out, f32, D>, D::Err>,
    again: impl FnOnce() -> M,
) -> Result<Tensor<Out, f32, D, T>, D::Err>
where
    S: Shape,
    Out: Shape,
    D: AddKernel,
    T: SaveForBackward<D>,
    M: Module<Tensor<S, f32, D, StoreTape<f32, D>>, Output = Tensor<Out, f32, D, StoreTape<f32, D>>, Error = D::Err>
        + 'static,
{
    segment(x, Output::Remade, first, again)
}

/// What becomes of the output of a segment in ops that save it. The input of a following segment must be [`Output::Saved`]: it would be made
/// from the input of this one, which would be made from that of the one before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Saved,
    Remade,
}

fn segment<M, S, Out, D, T>(
    x: Tensor<S, f32, D, T>,
    output: Output,
    first: impl FnOnce(Tensor<S, f32, D>) -> Result<Tensor<Out, f32, D>, D::Err>,
    again: impl FnOnce() -> M,
) -> Result<Tensor<Out, f32, D, T>, D::Err>
where
    S: Shape,
    Out: Shape,
    D: AddKernel,
    T: SaveForBackward<D>,
    M: Module<Tensor<S, f32, D, StoreTape<f32, D>>, Output = Tensor<Out, f32, D, StoreTape<f32, D>>, Error = D::Err>
        + 'static,
{
    let (x, mut tape) = contiguous(x)?.split_tape();
    let segment_tape = tape.segment();
    let out = segment_tape.first(|| first(x.clone()))?;
    if !T::OWNS_TAPE {
        return Ok(out.put_tape(tape));
    }
    // a view of x has x's gradient, which could not be taken out for both: it is copied, and x itself needs no segment
    let out = contiguous(out)?;
    if out.shape().num_elements() > 0 && D::address(&out) == D::address(&x) {
        return Ok(out.put_tape(tape));
    }
    let device = x.device().clone();
    let (x_ghost, out_ghost, x_id) = (x.ghost(), out.ghost(), id(&x));
    let segment = Rc::new(Segment::<M, S, Out, D, T> {
        module: again(),
        device: device.clone(),
        x: x_id,
        tape: segment_tape,
        state: RefCell::new(State::Saved(tape.save(x, SaveAs::local("checkpoint.x"))?)),
    });
    if output == Output::Remade {
        let segment = segment.clone();
        let len = out.shape().num_elements();
        tape.remade_by(&out, move || segment.output()?.try_reshape_like(&(len,)))?;
    }
    tape.add_checked_op(move |grads| {
        let _span = tracing::trace_span!("checkpoint backward").entered();
        let Rerun { x, out, tape } = segment.take()?;
        let (inner_x_ghost, is_x) = (x.ghost(), id(&x) == x_id);
        // Where the loaded tensor is another one for dfdx its gradient grows on top of what x has, as it would without checkpoint. Meanwhile a module that holds
        // x itself finds a gradient of x to add to.
        let mut grad_x = lend_gradient(&device, grads.get_or_alloc_mut(&x_ghost)?, &x_ghost)?;
        if !is_x {
            *grads.get_or_alloc_mut(&x_ghost)? = device.negative_zeros(x_ghost.shape().num_elements())?;
        }
        *grads.get_or_alloc_mut(&inner_x_ghost)? = grad_x;
        let grad_out = output_gradient(&device, grads.get_or_alloc_mut(&out_ghost)?, &out_ghost)?;
        *grads.get_or_alloc_mut(&out)? = grad_out;
        drop((x, out));
        tape.run(grads)?;
        grad_x = lend_gradient(&device, grads.get_or_alloc_mut(&inner_x_ghost)?, &inner_x_ghost)?;
        if !is_x {
            let of_x = gradient_slot(&device, grads.get_or_alloc_mut(&x_ghost)?, &x_ghost)?;
            device.add_backward(of_x, &mut grad_x)?;
        }
        *grads.get_or_alloc_mut(&x_ghost)? = grad_x;
        Ok(())
    });
    Ok(out.put_tape(tape))
}

/// What dfdx knows a tensor and its gradient by; those made later have greater ones.
fn id<S: Shape, D: DeviceMemory>(tensor: &Tensor<S, f32, D>) -> UniqueId {
    let mut ids = UnusedTensors::default();
    ids.add(tensor);
    ids.ids[0]
}

/// A segment from its forward pass to its backward pass.
struct Segment<M, S: Shape, Out: Shape, D: DeviceMemory, T: SaveForBackward<D>> {
    module: M,
    device: D,
    /// The tensor that it is applied to.
    x: UniqueId,
    tape: SegmentTape,
    state: RefCell<State<S, Out, D, T>>,
}

enum State<S: Shape, Out: Shape, D: DeviceMemory, T: SaveForBackward<D>> {
    Saved(T::Saved<S>),
    Run(Rerun<S, Out, D>),
    /// Its backward pass has begun, or its second forward pass has failed.
    Done,
}

/// A segment that was run again.
struct Rerun<S: Shape, Out: Shape, D: DeviceMemory> {
    x: Tensor<S, f32, D>,
    out: Tensor<Out, f32, D>,
    tape: StoreTape<f32, D>,
}

impl<M, S, Out, D, T> Segment<M, S, Out, D, T>
where
    S: Shape,
    Out: Shape,
    D: DeviceMemory,
    T: SaveForBackward<D>,
    M: Module<Tensor<S, f32, D, StoreTape<f32, D>>, Output = Tensor<Out, f32, D, StoreTape<f32, D>>, Error = D::Err>,
{
    /// Runs it again, if that has not been done.
    fn take(&self) -> Result<Rerun<S, Out, D>, D::Err> {
        match self.state.replace(State::Done) {
            State::Run(rerun) => Ok(rerun),
            State::Done => Err(D::failed()),
            State::Saved(saved) => {
                let before = id(&self.device.try_zeros::<Rank0>()?);
                let mut x = T::load(saved)?;
                // A store may give another tensor of the same numbers that this pass has: a gradient is not theirs together.
                if id(&x) != self.x && id(&x) <= before {
                    x = self.device.tensor_from_host(x.as_vec(), *x.shape())?;
                }
                let tape = self.tape.clone().tape();
                let out = self.module.try_forward(x.clone().put_tape(tape))?;
                let (out, tape) = contiguous(out)?.split_tape();
                Ok(Rerun { x, out, tape })
            }
        }
    }

    fn output(&self) -> Result<Tensor<Out, f32, D>, D::Err> {
        let rerun = self.take()?;
        let out = rerun.out.clone();
        self.state.replace(State::Run(rerun));
        Ok(out)
    }
}
