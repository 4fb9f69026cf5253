//! Divergence from a teacher's predictions, in chunks of tokens, as `edkm_kernels::distillation`: the logits of the last chunk are kept for the backward
//! pass, which begins with them.
#![allow(unsafe_code)]

use edkm_kernels::distillation::{Lesson, LogSumExp, Sums};

use crate::logits::{check_targets, Axes, Chunk, Extent, Logits, Projection};
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

/// What [`forward`] leaves for [`backward`]: in the device's memory the logits of a chunk (`edkm_kernels::cross_entropy::tokens_at_once`).
pub struct Kept<R: Runtime> {
    /// Log-sum-exp of each token's logits over the temperature, on the host.
    pub lse: LogSumExp,
    extent: Extent,
    last: Option<BothLogits<R>>,
}

/// A chunk of tokens and both models' logits of it.
struct BothLogits<R: Runtime> {
    chunk: Chunk<R>,
    student: Logits<R>,
    teacher: Logits<R>,
}

impl Comparison<'_> {
    /// Of the tokens at `positions`.
    fn logits<R: Runtime>(
        &self,
        runtime: &R,
        [axes, teacher_axes]: [Axes; 2],
        positions: Vec<usize>,
    ) -> Result<BothLogits<R>, R::Error> {
        let (chunk, student) = self.student.chunk(runtime, axes, positions)?;
        Ok(BothLogits {
            student,
            teacher: self.teacher.logits(runtime, teacher_axes, &chunk)?,
            chunk,
        })
    }
}

/// The weighted sums of what both say of each token. The lesson's share does not matter.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// If a target that counts is not below V.
pub fn forward<R: Runtime>(runtime: &R, comparison: Comparison<'_>) -> Result<(Sums, Kept<R>), R::Error> {
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
    let lse = LogSumExp {
        student: vec![0.0; tokens],
        teacher: vec![0.0; tokens],
    };
    let mut kept = Kept {
        lse,
        extent: Extent::default(),
        last: None,
    };
    if tokens == 0 {
        return Ok((sums, kept));
    }
    let (axes, teacher_axes) = (student.axes(tokens), teacher.axes(tokens));
    check::len("teacher's vocabulary", teacher_axes.vocabulary, axes.vocabulary);
    check_targets(targets, token_weights, axes.vocabulary);
    kept.extent = Extent::new([axes, teacher_axes], token_weights);
    for positions in kept.extent.chunks() {
        // its memory serves the next
        kept.last = None;
        let logits = comparison.logits(runtime, [axes, teacher_axes], positions)?;
        let chunk = &logits.chunk;
        let rows = chunk.len();
        let ids = chunk.pick(runtime, targets)?;
        let mut found = Array::<R, f32>::zeroed(runtime, PARTS * rows)?;
        let mut found_mut = found.as_mut();
        let arguments = [
            logits.student.logits.as_slice().argument(),
            logits.teacher.logits.as_slice().argument(),
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
            kept.lse.student[token] = student_lse;
            kept.lse.teacher[token] = teacher_lse;
        }
        kept.last = Some(logits);
    }
    Ok((sums, kept))
}

/// Adds `scale` x `grad_loss[0]` times the gradients of [`Lesson::total`] to `grad_x [N, H]` and `grad_w [V, H]` of the student. `kept` as [`forward`]
/// gave it.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// If a target that counts is not below V; if `kept` is of other axes of one of the models, or of other tokens that count.
pub fn backward<R: Runtime>(
    runtime: &R,
    comparison: Comparison<'_>,
    kept: Kept<R>,
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
    let Kept {
        lse,
        extent: of_forward,
        mut last,
    } = kept;
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
    let extent = Extent::new([axes, teacher_axes], token_weights);
    extent.check_kept("distillation", &of_forward);
    for positions in extent.chunks().into_iter().rev() {
        let mut logits = match last.take() {
            Some(last) => last,
            None => comparison.logits(runtime, [axes, teacher_axes], positions)?,
        };
        let chunk = &logits.chunk;
        let rows = chunk.len();
        let (student_lse, teacher_lse) = (chunk.pick(runtime, &lse.student)?, chunk.pick(runtime, &lse.teacher)?);
        let weights = chunk.pick(runtime, token_weights)?;
        let ids = chunk.pick(runtime, targets)?;
        let arguments = [
            logits.student.logits.as_mut().argument(),
            logits.teacher.logits.as_slice().argument(),
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
        student.backward(
            runtime,
            axes,
            chunk,
            &logits.student,
            grad_x.reborrow(),
            grad_w.reborrow(),
        )?;
    }
    Ok(())
}
