//! Divergence from a teacher's predictions, in chunks of tokens, as `edkm_kernels::distillation`.
#![allow(unsafe_code)]

use edkm_kernels::distillation::{Lesson, LogSumExp, Losses};

use crate::logits::{check_targets, chunks, Projection};
use crate::runtime::blocks;
use crate::Argument::{Float, Size};
use crate::{check, Array, Runtime, Slice, SliceMut};

/// The two models and how their predictions are compared.
#[derive(Debug, Clone, Copy)]
pub struct Comparison<'a> {
    /// The model that learns.
    pub student: Projection<'a>,
    /// The model that it learns from: a constant.
    pub teacher: Projection<'a>,
    /// What is learned of each token, on the host.
    pub lesson: Lesson<'a>,
}

/// The weighted sum of the losses, and what backward needs.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// If a target that counts is not below V.
pub fn forward<R: Runtime>(runtime: &R, comparison: Comparison<'_>) -> Result<(Losses, LogSumExp), R::Error> {
    let Comparison {
        student,
        teacher,
        lesson,
    } = comparison;
    let Lesson {
        targets,
        token_weights,
        teacher_share,
        temperature,
    } = lesson;
    let tokens = token_weights.len();
    check::len("targets [N]", targets.len(), tokens);
    let mut losses = Losses::default();
    let mut lse = LogSumExp {
        student: vec![0.0; tokens],
        teacher: vec![0.0; tokens],
    };
    if tokens == 0 {
        return Ok((losses, lse));
    }
    let (axes, teacher_axes) = (student.axes(tokens), teacher.axes(tokens));
    check::len("teacher's vocabulary", teacher_axes.vocabulary, axes.vocabulary);
    check_targets(targets, token_weights, axes.vocabulary);
    for chunk in chunks(runtime, token_weights, axes.vocabulary, 2) {
        let chunk = chunk?;
        let rows = chunk.len();
        let of_student = student.logits(runtime, axes, &chunk)?;
        let of_teacher = teacher.logits(runtime, teacher_axes, &chunk)?;
        let ids = chunk.pick(runtime, targets)?;
        let mut found = Array::<R, f32>::zeroed(runtime, 3 * rows)?;
        let mut found_mut = found.as_mut();
        let arguments = [
            of_student.logits.as_slice().argument(),
            of_teacher.logits.as_slice().argument(),
            ids.as_slice().argument(),
            Float(temperature.recip()),
            Float(teacher_share),
            found_mut.part(0, rows).argument(),
            found_mut.part(rows, rows).argument(),
            found_mut.part(2 * rows, rows).argument(),
            Size(rows),
            Size(axes.vocabulary),
        ];
        // SAFETY: edkm_distillation_forward(student, teacher, targets, scale, share, student_lse, teacher_lse, loss, rows, vocabulary) reaches rows x vocabulary
        // logits of each model, the targets of which were checked, and `rows` numbers of each third of `found`.
        unsafe { runtime.launch("edkm_distillation_forward", blocks(rows), &arguments) }?;
        let found = found.to_host(runtime)?;
        for (i, &token) in chunk.positions.iter().enumerate() {
            let weight = f64::from(token_weights[token]);
            losses.weight += weight;
            losses.total += weight * f64::from(found[2 * rows + i]) * f64::from(temperature).powi(2);
            lse.student[token] = found[i];
            lse.teacher[token] = found[rows + i];
        }
    }
    Ok((losses, lse))
}

/// Adds `scale` x `grad_loss[0]` times the gradients of the weighted sum to `grad_x [N, H]` and `grad_w [V, H]` of the student.
///
/// # Errors
/// The runtime's.
pub fn backward<R: Runtime>(
    runtime: &R,
    comparison: Comparison<'_>,
    lse: &LogSumExp,
    grad_loss: Slice<'_, f32>,
    scale: f32,
    mut grad_x: SliceMut<'_, f32>,
    mut grad_w: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let Comparison {
        student,
        teacher,
        lesson,
    } = comparison;
    let Lesson {
        targets,
        token_weights,
        teacher_share,
        temperature,
    } = lesson;
    let tokens = token_weights.len();
    check::len("targets [N]", targets.len(), tokens);
    check::len("lse.student [N]", lse.student.len(), tokens);
    check::len("lse.teacher [N]", lse.teacher.len(), tokens);
    check::len("grad_loss", grad_loss.len(), 1);
    check::len("grad_x [N, H]", grad_x.len(), student.x.len());
    check::len("grad_w [V, H]", grad_w.len(), student.w.len());
    if tokens == 0 {
        return Ok(());
    }
    let (axes, teacher_axes) = (student.axes(tokens), teacher.axes(tokens));
    check::len("teacher's vocabulary", teacher_axes.vocabulary, axes.vocabulary);
    check_targets(targets, token_weights, axes.vocabulary);
    for chunk in chunks(runtime, token_weights, axes.vocabulary, 2) {
        let chunk = chunk?;
        let rows = chunk.len();
        let mut of_student = student.logits(runtime, axes, &chunk)?;
        let of_teacher = teacher.logits(runtime, teacher_axes, &chunk)?;
        let (student_lse, teacher_lse) = (chunk.pick(runtime, &lse.student)?, chunk.pick(runtime, &lse.teacher)?);
        let weights = chunk.pick(runtime, token_weights)?;
        let ids = chunk.pick(runtime, targets)?;
        let arguments = [
            of_student.logits.as_mut().argument(),
            of_teacher.logits.as_slice().argument(),
            ids.as_slice().argument(),
            Float(temperature.recip()),
            Float(teacher_share),
            student_lse.as_slice().argument(),
            teacher_lse.as_slice().argument(),
            weights.as_slice().argument(),
            grad_loss.argument(),
            // T^2 from the loss, 1/T from the logits
            Float(scale * temperature),
            Size(rows),
            Size(axes.vocabulary),
        ];
        // SAFETY: edkm_distillation_backward(student, teacher, targets, scale, share, student_lse, teacher_lse, weights, grad_loss, factor, rows, vocabulary) reaches
        // rows x vocabulary logits of each model, `rows` of both lse and of weights, and one number of grad_loss.
        unsafe { runtime.launch("edkm_distillation_backward", blocks(rows), &arguments) }?;
        student.backward(runtime, axes, &chunk, &of_student, grad_x.reborrow(), grad_w.reborrow())?;
    }
    Ok(())
}
