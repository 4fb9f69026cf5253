//! Divergence from a teacher's predictions, in chunks of tokens, as `edkm_kernels::distillation`.
#![allow(unsafe_code)]

use edkm_kernels::distillation::{Lesson, LogSumExp, Sums};

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

/// What edkm_distillation_forward finds of a row: both models' log-sum-exp, the divergence, both models' cross-entropy.
const PARTS: usize = 5;

/// The weighted sums of what both say of each token, and what backward needs.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// If a target that counts is not below V.
pub fn forward<R: Runtime>(runtime: &R, comparison: Comparison<'_>) -> Result<(Sums, LogSumExp), R::Error> {
    let Comparison {
        student,
        teacher,
        lesson,
    } = comparison;
    let Lesson {
        targets,
        token_weights,
        temperature,
        ..
    } = lesson;
    let tokens = token_weights.len();
    check::len("targets [N]", targets.len(), tokens);
    let mut sums = Sums::default();
    let mut lse = LogSumExp {
        student: vec![0.0; tokens],
        teacher: vec![0.0; tokens],
    };
    if tokens == 0 {
        return Ok((sums, lse));
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
        let mut found = Array::<R, f32>::zeroed(runtime, PARTS * rows)?;
        let mut found_mut = found.as_mut();
        let arguments = [
            of_student.logits.as_slice().argument(),
            of_teacher.logits.as_slice().argument(),
            ids.as_slice().argument(),
            Float(temperature.recip()),
            found_mut.argument(),
            Size(rows),
            Size(axes.vocabulary),
        ];
        // SAFETY: edkm_distillation_forward(student, teacher, targets, scale, found, rows, vocabulary) reaches rows x vocabulary logits of each model, the
        // targets of which were checked, and PARTS x rows numbers of found.
        unsafe { runtime.launch("edkm_distillation_forward", blocks(rows), &arguments) }?;
        let found = found.to_host(runtime)?;
        for (i, &token) in chunk.positions.iter().enumerate() {
            let weight = f64::from(token_weights[token]);
            let [student_lse, teacher_lse, divergence, by_student, by_teacher] =
                std::array::from_fn::<_, PARTS, _>(|part| found[part * rows + i]);
            sums.weight += weight;
            sums.divergence += weight * f64::from(divergence);
            sums.cross_entropy += weight * f64::from(by_student);
            sums.teacher_cross_entropy += weight * f64::from(by_teacher);
            lse.student[token] = student_lse;
            lse.teacher[token] = teacher_lse;
        }
    }
    Ok((sums, lse))
}

/// Adds `scale` x `grad_loss[0]` times the gradients of [`Lesson::total`] to `grad_x [N, H]` and `grad_w [V, H]` of the student.
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
