//! Learning from another model's predictions: the divergence of two output projections, in chunks of tokens.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use dfdx::prelude::*;
use edkm_kernels::distillation::{Lesson, Settled, Sums};

use super::cross_entropy::Targets;
use super::linear::{cluster, ClusteredUse, LinearDims};
use super::{apart, in_order, Matrix};
use crate::device::{contiguous, DeviceMemory};
use crate::gradients::{gradient_slot, lend_gradient, output_gradient};
use crate::{Clustering, EdkmDevice, EdkmError, SaveAs, SaveForBackward};

/// What the teacher says of the same tokens, as hidden states and the matrix that makes logits of them.
#[derive(Clone)]
pub struct Teacher<D: EdkmDevice> {
    /// `[tokens, teacher's hidden]`
    pub hidden: Matrix<D>,
    /// `[vocabulary, teacher's hidden]`
    pub head: Matrix<D>,
    /// Both models' logits are divided by it.
    pub temperature: f32,
    /// The share of the loss that is the divergence from the teacher, from 0 to 1; the rest is the text's cross-entropy.
    pub share: f32,
    /// The teacher is believed while the student predicts the text no better than it; the better it does, the less, and not at all once it is by so
    /// many nats a token (of the same batch). Infinity: always.
    pub fade: f32,
}

/// The loss, and what it is made of.
pub struct Taught<D: EdkmDevice, T> {
    /// In nats a token.
    pub loss: Tensor<Rank0, f32, D, T>,
    /// The student's mean cross-entropy of the targets, in nats a token, whatever its part in the loss.
    pub cross_entropy: f64,
    /// What the teacher's share was multiplied by, from 0 to 1. A constant of the gradient.
    pub trust: f32,
}

impl<D: EdkmDevice> Teacher<D> {
    /// How far it is believed, where that has been found of both.
    fn trust(&self, sums: &Sums) -> f32 {
        if sums.weight == 0.0 || sums.cross_entropy >= sums.teacher_cross_entropy {
            return 1.0;
        }
        let ahead = (sums.teacher_cross_entropy - sums.cross_entropy) / sums.weight;
        // a student ahead of a teacher that is not believed then is not taught: 0 for a fade of 0
        (1.0 - ahead / f64::from(self.fade)).max(0.0) as f32
    }

    fn lesson<'a>(&self, targets: &'a Targets, trust: f32) -> Lesson<'a> {
        Lesson {
            targets: &targets.ids,
            token_weights: &targets.weights,
            teacher_share: self.share * trust,
            temperature: self.temperature,
        }
    }
}

/// The two models' projections as the device sees them.
pub struct DistillationViews<'a, D: DeviceMemory> {
    /// The student's hidden states `[tokens, hidden]`.
    pub x: D::View<'a>,
    /// The student's head `[vocabulary, hidden]`.
    pub head: D::View<'a>,
    /// How the student's head was clustered.
    pub clustered: Option<&'a ClusteredUse>,
    /// The teacher's hidden states.
    pub teacher_x: D::View<'a>,
    /// The teacher's head.
    pub teacher_head: D::View<'a>,
    /// What is learned of each token.
    pub lesson: Lesson<'a>,
}

/// The device's part.
pub trait DistillationKernel: DeviceMemory {
    /// What the forward pass leaves for the backward pass: the log-sum-exp of each row, and the logits that it computed last or the gradients.
    type DistillationKept: 'static;

    /// Weighted sums of what both models say of each token. The lesson's share does not matter to them. Where `settled` is given a backward pass follows, with the
    /// share that it says of the sums, where it says one: a device may find the gradients while the logits are there.
    fn distillation_forward(
        &self,
        dims: LinearDims,
        views: DistillationViews<'_, Self>,
        settled: Option<Settled<'_>>,
    ) -> Result<(Sums, Self::DistillationKept), EdkmError>;

    /// Adds `scale` times the gradients of the weighted sum, times the gradient of the loss.
    fn distillation_backward(
        &self,
        dims: LinearDims,
        views: DistillationViews<'_, Self>,
        kept: Self::DistillationKept,
        scale: f32,
        grad_loss: &<Self as Storage<f32>>::Vec,
        grad_x: &mut <Self as Storage<f32>>::Vec,
        grad_head: &mut <Self as Storage<f32>>::Vec,
    ) -> Result<(), EdkmError>;
}

/// The teacher's share of the mean divergence KL(teacher || student) of the predictions, and the rest of the mean cross-entropy of `targets`, in
/// nats a token times the temperature squared (arXiv 1503.02531), for the student's x `[tokens, hidden]` and head `[vocabulary, hidden]`.
/// The teacher is a constant, and so is how far it is believed ([`Teacher::fade`]).
///
/// Saves x; the teacher's hidden states are kept as they are. What the loss works in stays from forward to backward: two numbers a token and both models'
/// logits, of 128 MiB or a quarter of the head's size at most, whichever is more. Where there are more, gradients are found chunk by chunk in the forward pass
/// (on the CPU) as long as the teacher is believed wholly or not at all, and as much as the head has is kept of them; otherwise, and on a GPU, the last chunk of logits is,
/// and those of others are computed again.
///
/// # Errors
/// Shapes that do not fit, a head that is not finite; a store that fails.
pub fn distillation<D: EdkmDevice, T: SaveForBackward<D>>(
    x: Matrix<D, T>,
    head: &Matrix<D>,
    clustering: Option<&Clustering>,
    teacher: Teacher<D>,
    targets: Targets,
) -> Result<Taught<D, T>, D::Err> {
    let _span = tracing::trace_span!("distillation").entered();
    let (x, tape) = contiguous(x)?.split_tape();
    let (head, tape) = in_order(head, tape)?;
    let (x, mut tape) = apart(x.put_tape(tape), |x| x == D::address(&head))?.split_tape();
    let teacher = Teacher {
        hidden: contiguous(teacher.hidden)?,
        head: contiguous(teacher.head)?,
        ..teacher
    };
    let device = x.device().clone();
    let ((tokens, hidden), (vocabulary, head_hidden)) = (*x.shape(), *head.shape());
    let (teacher_shape, teacher_head) = (*teacher.hidden.shape(), *teacher.head.shape());
    let fits = hidden == head_hidden
        && targets.weights.len() == tokens
        && targets.ids.len() == tokens
        && targets.ids.iter().all(|&id| (id as usize) < vocabulary)
        && (0.0..=1.0).contains(&teacher.share)
        && teacher_shape.0 == tokens
        && teacher_head == (vocabulary, teacher_shape.1)
        && teacher.temperature > 0.0
        && teacher.fade >= 0.0;
    if !fits {
        return Err(tape.fail(EdkmError::Shape {
            op: "distillation",
            expected: format!("a teacher of the same {tokens} tokens and {vocabulary} words, a target below {vocabulary} and a weight for each token, a temperature above 0, a share from 0 to 1, a fade from 0"),
            got: format!(
                "x {:?}, head {:?}, teacher {teacher_shape:?} and {teacher_head:?}, {} targets, {} weights, temperature {}, share {}, fade {}",
                x.shape(),
                head.shape(),
                targets.ids.len(),
                targets.weights.len(),
                teacher.temperature,
                teacher.share,
                teacher.fade
            ),
        }));
    }
    let dims = LinearDims {
        tokens,
        inputs: hidden,
        outputs: vocabulary,
    };
    let clustered = cluster(&device, dims, &head, clustering, &tape, "distillation")?;
    let views = DistillationViews {
        x: D::view(&x),
        head: D::view(&head),
        clustered: clustered.as_ref(),
        teacher_x: D::view(&teacher.hidden),
        teacher_head: D::view(&teacher.head),
        lesson: teacher.lesson(&targets, 1.0),
    };
    // between the two it is another one for each token that is added
    let settled = |sums: &Sums| match teacher.trust(sums) {
        trust @ (0.0 | 1.0) => Some(teacher.share * trust),
        _ => None,
    };
    let settled = T::OWNS_TAPE.then_some(&settled as Settled<'_>);
    let (sums, kept) = device
        .distillation_forward(dims, views, settled)
        .map_err(|error| tape.fail(error))?;
    let trust = teacher.trust(&sums);
    let scale = if sums.weight > 0.0 { 1.0 / sums.weight } else { 0.0 };
    let total = teacher.lesson(&targets, trust).total(&sums);
    let loss = device.try_tensor_from_vec(vec![(total * scale) as f32], ())?;
    let taught = |loss| Taught {
        loss,
        cross_entropy: sums.cross_entropy * scale,
        trust,
    };
    if !T::OWNS_TAPE {
        return Ok(taught(loss.put_tape(tape)));
    }
    let (x_ghost, head_ghost, loss_ghost) = (x.ghost(), head.ghost(), loss.ghost());
    let segment = tape.segment();
    let saved_x = tape.save(x, SaveAs::local("distillation.x"))?;
    tape.add_checked_op(move |grads| {
        let _span = tracing::trace_span!("distillation backward").entered();
        let x = T::load(saved_x)?;
        let grad_loss = output_gradient(&device, grads.get_or_alloc_mut(&loss_ghost)?, &loss_ghost)?;
        let mut grad_x = lend_gradient(&device, grads.get_or_alloc_mut(&x_ghost)?, &x_ghost)?;
        let views = DistillationViews {
            x: D::view(&x),
            head: D::view(&head),
            clustered: clustered.as_ref(),
            teacher_x: D::view(&teacher.hidden),
            teacher_head: D::view(&teacher.head),
            lesson: teacher.lesson(&targets, trust),
        };
        let grad_head = gradient_slot(&device, grads.get_or_alloc_mut(&head_ghost)?, &head_ghost)?;
        let outcome = device.distillation_backward(dims, views, kept, scale as f32, &grad_loss, &mut grad_x, grad_head);
        *grads.get_or_alloc_mut(&x_ghost)? = grad_x;
        outcome.map_err(|error| segment.fail::<D>(error))
    });
    Ok(taught(loss.put_tape(tape)))
}
