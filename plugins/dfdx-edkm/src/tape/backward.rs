//! The backward pass over a [`StoreTape`].

use dfdx::prelude::*;

use super::{Failure, StoreTape};
use crate::gradients::{drop_temporaries, refill, Running};
use crate::EdkmError;

/// Runs the backward pass of a scalar loss and returns the gradients: of the leaves if the tape was made with dfdx's `alloc_grads` or with
/// [`gradients_of`](crate::gradients_of), of every tensor if it was made with `Gradients::leaky`.
///
/// # Errors
/// What an op failed with, above all a store that could not give a tensor back ([`EdkmError::Store`]): never a wrong gradient.
pub fn backward<E: Dtype, D: Device<E>>(
    loss: Tensor<Rank0, E, D, StoreTape<E, D>>,
) -> Result<Gradients<E, D>, EdkmError> {
    backward_by_parts(loss, |_, _| Ok(()))
}

/// Runs the backward pass as [`backward_by_parts`] does, and gives nothing back: `rest` is called at the end with what no part has taken.
///
/// # Errors
/// Those of [`backward`]; the first of `part` and `rest`.
pub fn backward_each_part<E: Dtype, D: Device<E>, X: From<EdkmError>>(
    loss: Tensor<Rank0, E, D, StoreTape<E, D>>,
    part: impl FnMut(usize, &mut Gradients<E, D>) -> Result<(), X>,
    rest: impl FnOnce(&mut Gradients<E, D>) -> Result<(), X>,
) -> Result<(), X> {
    pass(loss, part, |gradients, _| rest(gradients)).map(drop)
}

/// Runs the backward pass as [`backward`] does, and calls `part` for each part of the model that said where it begins
/// ([`SaveForBackward::begin_part`](crate::SaveForBackward::begin_part)), as soon as the gradients of its parameters are whole: last part first. What
/// `part` takes out of the gradients ([`take_gradient`](crate::take_gradient)) is zeros at the end; [`backward_each_part`] has no memory for them then, so that those
/// of all parts are never there at once. No op that is still to run reads the parameters of that part, if it is true that they are used from where it begins on: they may be
/// changed.
///
/// # Errors
/// Those of [`backward`]; the first of `part`.
pub fn backward_by_parts<E: Dtype, D: Device<E>, X: From<EdkmError>>(
    loss: Tensor<Rank0, E, D, StoreTape<E, D>>,
    part: impl FnMut(usize, &mut Gradients<E, D>) -> Result<(), X>,
) -> Result<Gradients<E, D>, X> {
    pass(loss, part, |gradients, failed| refill(gradients).map_err(failed))
}

/// The pass; `end` is called behind it, while it is known which gradients were taken.
fn pass<E: Dtype, D: Device<E>, X: From<EdkmError>>(
    loss: Tensor<Rank0, E, D, StoreTape<E, D>>,
    part: impl FnMut(usize, &mut Gradients<E, D>) -> Result<(), X>,
    end: impl FnOnce(&mut Gradients<E, D>, &dyn Fn(D::Err) -> X) -> Result<(), X>,
) -> Result<Gradients<E, D>, X> {
    let _span = tracing::trace_span!("backward").entered();
    let (loss, mut tape) = loss.split_tape();
    let mut failures = vec![tape.failure()];
    failures.append(&mut tape.other_failures);
    let reason = || failures.iter().find_map(Failure::take);
    if let Some(error) = reason() {
        return Err(error.into());
    }
    let failed = &|device: D::Err| -> X {
        let error = reason().unwrap_or_else(|| EdkmError::Device(device.to_string()));
        error.into()
    };
    let mut gradients = united(&loss, std::mem::take(&mut tape.gradients)).map_err(failed)?;
    let temporaries_go = drop_temporaries(&mut gradients, &loss).map_err(failed)?;
    let ghost = loss.ghost();
    let slot = gradients.get_or_alloc_mut(&ghost).map_err(failed)?;
    loss.device().try_fill_with_ones(slot).map_err(failed)?;
    let context = tape.context().clone();
    let running = Running::begin(temporaries_go);
    context.listen(|| tape.run_by_parts(&mut gradients, part, failed))?;
    gradients.drop_non_leafs();
    end(&mut gradients, failed)?;
    drop(running);
    Ok(gradients)
}

/// The gradients of merged tapes and their leaves. Only dfdx can read which there are, and does so where it merges tapes of its own.
fn united<E: Dtype, D: Device<E>>(
    loss: &Tensor<Rank0, E, D>,
    mut gradients: Vec<Gradients<E, D>>,
) -> Result<Gradients<E, D>, D::Err> {
    if gradients.len() < 2 {
        return Ok(gradients.pop().unwrap_or_else(Gradients::leaky));
    }
    let tapes = gradients
        .into_iter()
        .map(|gradients| loss.trace(gradients).split_tape().1);
    let tape = tapes.reduce(Merge::merge).unwrap_or_default();
    loss.clone().put_tape(tape).try_backward()
}
