//! Output projection and cross-entropy together, in chunks of tokens: logits `[tokens, vocabulary]` are never whole.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use std::sync::Arc;

use dfdx::prelude::*;

use super::linear::{cluster, ClusteredUse, LinearDims};
use super::{apart, in_order, Matrix};
use crate::device::{contiguous, DeviceMemory};
use crate::gradients::{gradient_slot, lend_gradient, output_gradient};
use crate::{Clustering, EdkmDevice, EdkmError, SaveAs, SaveForBackward};

/// What the model should have said.
#[derive(Debug, Clone)]
pub struct Targets {
    /// The token that follows each row, `[tokens]`.
    pub ids: Arc<[u32]>,
    /// How much each row counts, `[tokens]`: 1, or 0 for a token outside the loss.
    pub weights: Arc<[f32]>,
}

/// What comes behind a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// Nothing: it is measured.
    Nothing,
    /// Its backward pass. A device may find the gradients while the logits are there.
    Backward,
}

/// The device's part of the loss.
pub trait CrossEntropyKernel: DeviceMemory {
    /// What the forward pass leaves for the backward pass: the log-sum-exp of each row, and the logits that it computed last or the gradients.
    type CrossEntropyKept: 'static;

    /// The weighted sum of negative log likelihoods and the sum of the weights.
    fn cross_entropy_forward(
        &self,
        dims: LinearDims,
        x: Self::View<'_>,
        head: Self::View<'_>,
        clustered: Option<&ClusteredUse>,
        targets: &Targets,
        follows: Follows,
    ) -> Result<(edkm_kernels::cross_entropy::Losses, Self::CrossEntropyKept), EdkmError>;

    /// Adds `scale` times the gradients of the weighted sum, `scale` times the gradient of the loss.
    fn cross_entropy_backward(
        &self,
        dims: LinearDims,
        saved: CrossEntropySaved<'_, Self>,
        kept: Self::CrossEntropyKept,
        grad_loss: &<Self as Storage<f32>>::Vec,
        grad_x: &mut <Self as Storage<f32>>::Vec,
        grad_head: &mut <Self as Storage<f32>>::Vec,
    ) -> Result<(), EdkmError>;
}

/// What the backward pass of the loss reads.
pub struct CrossEntropySaved<'a, D: DeviceMemory> {
    /// `[tokens, hidden]`
    pub x: D::View<'a>,
    /// `[vocabulary, hidden]`
    pub head: D::View<'a>,
    /// How the head was clustered.
    pub clustered: Option<&'a ClusteredUse>,
    /// The targets.
    pub targets: &'a Targets,
    /// One over the sum of the weights.
    pub scale: f32,
}

/// Mean cross-entropy, in nats a token, of softmax(x head^T) against `targets`, for x `[tokens, hidden]` and head
/// `[vocabulary, hidden]`. The mean is over the sum of the target weights; 0 if that is 0.
///
/// Saves x. What the loss works in stays from forward to backward: a number a token and the logits, of 128 MiB or a quarter of the head's size at most,
/// whichever is more. Where there are more, gradients are found chunk by chunk in the forward pass (on the CPU), and as much as the head has is kept of them;
/// on a GPU the last chunk of logits is, and those of others are computed again.
///
/// # Errors
/// Shapes that do not fit, a target outside the vocabulary, a head that is not finite; a store that fails.
pub fn cross_entropy<D: EdkmDevice, T: SaveForBackward<D>>(
    x: Matrix<D, T>,
    head: &Matrix<D>,
    clustering: Option<&Clustering>,
    targets: Targets,
) -> Result<Tensor<Rank0, f32, D, T>, D::Err> {
    let _span = tracing::trace_span!("cross_entropy").entered();
    let (x, tape) = contiguous(x)?.split_tape();
    let (head, tape) = in_order(head, tape)?;
    let (x, mut tape) = apart(x.put_tape(tape), |x| x == D::address(&head))?.split_tape();
    let device = x.device().clone();
    let ((tokens, hidden), (vocabulary, head_hidden)) = (*x.shape(), *head.shape());
    let outside = targets.ids.iter().find(|&&id| id as usize >= vocabulary);
    let fits = hidden == head_hidden && targets.ids.len() == tokens && targets.weights.len() == tokens;
    if !fits || outside.is_some() {
        return Err(tape.fail(EdkmError::Shape {
            op: "cross_entropy",
            expected: format!("x [tokens, {head_hidden}] with a target below {vocabulary} and a weight for each token"),
            got: format!(
                "x [{tokens}, {hidden}], {} targets, {} weights, id outside: {outside:?}",
                targets.ids.len(),
                targets.weights.len()
            ),
        }));
    }
    let dims = LinearDims {
        tokens,
        inputs: hidden,
        outputs: vocabulary,
    };
    let clustered = cluster(&device, dims, &head, clustering, &tape, "cross_entropy")?;
    let follows = if T::OWNS_TAPE {
        Follows::Backward
    } else {
        Follows::Nothing
    };
    let (losses, kept) = device
        .cross_entropy_forward(dims, D::view(&x), D::view(&head), clustered.as_ref(), &targets, follows)
        .map_err(|error| tape.fail(error))?;
    let scale = if losses.weight > 0.0 { 1.0 / losses.weight } else { 0.0 };
    let loss = device.try_tensor_from_vec(vec![(losses.total * scale) as f32], ())?;
    if !T::OWNS_TAPE {
        return Ok(loss.put_tape(tape));
    }
    let (x_ghost, head_ghost, loss_ghost) = (x.ghost(), head.ghost(), loss.ghost());
    let segment = tape.segment();
    let saved_x = tape.save(x, SaveAs::local("cross_entropy.x"))?;
    tape.add_checked_op(move |grads| {
        let _span = tracing::trace_span!("cross_entropy backward").entered();
        let x = T::load(saved_x)?;
        let grad_loss = output_gradient(&device, grads.get_or_alloc_mut(&loss_ghost)?, &loss_ghost)?;
        let mut grad_x = lend_gradient(&device, grads.get_or_alloc_mut(&x_ghost)?, &x_ghost)?;
        let saved = CrossEntropySaved {
            x: D::view(&x),
            head: D::view(&head),
            clustered: clustered.as_ref(),
            targets: &targets,
            scale: scale as f32,
        };
        let grad_head = gradient_slot(&device, grads.get_or_alloc_mut(&head_ghost)?, &head_ghost)?;
        let outcome = device.cross_entropy_backward(dims, saved, kept, &grad_loss, &mut grad_x, grad_head);
        *grads.get_or_alloc_mut(&x_ghost)? = grad_x;
        outcome.map_err(|error| segment.fail::<D>(error))
    });
    Ok(loss.put_tape(tape))
}
