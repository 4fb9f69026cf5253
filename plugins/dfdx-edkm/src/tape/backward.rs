//! The backward pass over a [`StoreTape`].

use dfdx::prelude::*;

use super::StoreTape;
use crate::EdkmError;

/// Runs the backward pass of a scalar loss and returns the gradients: of the leaves if the tape was made with dfdx's `alloc_grads`,
/// of every tensor that was not freed on the way if it was made with `Gradients::leaky`.
///
/// # Errors
/// What an op failed with, above all a store that could not give a tensor back ([`EdkmError::Store`]): never a wrong gradient.
pub fn backward<E: Dtype, D: Device<E>>(
    loss: Tensor<Rank0, E, D, StoreTape<E, D>>,
) -> Result<Gradients<E, D>, EdkmError> {
    let _span = tracing::trace_span!("backward").entered();
    let (loss, mut tape) = loss.split_tape();
    let failure = tape.failure();
    if let Some(error) = failure.take() {
        return Err(error);
    }
    let mut gradients = std::mem::replace(&mut tape.gradients, Gradients::leaky());
    let run = |gradients: &mut Gradients<E, D>| {
        let ghost = loss.ghost();
        loss.device().try_fill_with_ones(gradients.get_or_alloc_mut(&ghost)?)?;
        tape.run(gradients)
    };
    match run(&mut gradients) {
        Ok(()) => {
            gradients.drop_non_leafs();
            Ok(gradients)
        }
        Err(device) => Err(failure.take().unwrap_or_else(|| EdkmError::Device(device.to_string()))),
    }
}
