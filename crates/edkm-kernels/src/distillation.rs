//! The loss that makes a student's distribution follow a teacher's, with both output projections in chunks of tokens.
//!
//! For each token, `T^2 (a KL(softmax(t / T) || softmax(s / T)) - (1 - a) log softmax(s / T)[target])` with teacher logits t, student
//! logits s and the text's token as target: a share `a` is learned from the teacher, the rest from the text. The factor T^2 keeps the
//! gradient's size independent of the temperature T.
//!
//! Memory, in both passes and between them: logits of one chunk for teacher and student ([`tokens_at_once`](crate::cross_entropy::tokens_at_once)).
//! The backward pass begins with the last chunk, whose logits are kept, and computes those of the others again (the student's alone if nothing is learned from the
//! teacher); unless [`forward_ahead`] has found the gradients while the logits were there: 8 products of the projection's size in place of 12, and memory for
//! gradients as large as those that they are added to.
//!
//! # Source
//!
//! G. Hinton, O. Vinyals and J. Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531, section 2.

use crate::{
    check,
    elementwise::{self, exp},
    lanes::{self, dispatch},
    logits::{self, map_rows, Ahead, Axes},
};

pub use crate::logits::Projection;

/// Log-sum-exp of each token's logits over the temperature (0 where the weight is 0).
#[derive(Clone, Debug, PartialEq)]
pub struct LogSumExp {
    /// Of the student `[N]`.
    pub student: Vec<f32>,
    /// Of the teacher `[N]`.
    pub teacher: Vec<f32>,
}

/// What [`forward`] leaves for [`backward`].
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Of each token.
    pub lse: LogSumExp,
    /// Of the last chunk; none where gradients were found ahead.
    last: Logits,
    ahead: Option<Ahead>,
}

/// Logits of a chunk, over the temperature.
#[derive(Clone, Debug, Default, PartialEq)]
struct Logits {
    student: Vec<f32>,
    teacher: Vec<f32>,
}

/// What is learned of each token.
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    /// The text's tokens `[N]`, below V.
    pub targets: &'a [u32],
    /// How much each counts `[N]`.
    pub token_weights: &'a [f32],
    /// The share that is learned from the teacher, from 0 to 1; the rest from `targets`.
    pub teacher_share: f32,
    /// Divides both models' logits.
    pub temperature: f32,
}

impl Lesson<'_> {
    /// The weighted sum of the losses, of its parts.
    pub fn total(&self, sums: &Sums) -> f64 {
        let share = f64::from(self.teacher_share);
        let loss = share * sums.divergence + (1.0 - share) * sums.cross_entropy;
        f64::from(self.temperature).powi(2) * loss
    }
}

/// Sums over the tokens of weight x what was found of each, in nats, with logits over the temperature.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Of the weights alone.
    pub weight: f64,
    /// KL(teacher || student).
    pub divergence: f64,
    /// -log softmax(student) at the target.
    pub cross_entropy: f64,
    /// -log softmax(teacher) at the target.
    pub teacher_cross_entropy: f64,
}

/// What both say of each token, weighted and summed; `lesson.teacher_share` is for [`Lesson::total`] and [`backward`]. `student` and `teacher` have the same N and V, and may differ in H.
///
/// # Panics
///
/// If lengths do not match, the temperature is not positive, or a target that counts is outside the vocabulary.
pub fn forward(student: Projection<'_>, teacher: Projection<'_>, lesson: Lesson<'_>) -> (Sums, Kept) {
    forward_with(student, teacher, lesson, None)
}

/// The teacher's share where that is settled by what was found of both models.
pub type Settled<'a> = &'a dyn Fn(&Sums) -> Option<f32>;

/// [`forward`] for a backward pass that follows, with the teacher's share that `settled` says of the sums, where it says one. As long as it says the same of
/// those of the tokens so far, and there is more than one chunk, the gradients are found with them; where it does not in the end, the backward pass is that of
/// [`forward`].
///
/// # Panics
///
/// As [`forward`].
pub fn forward_ahead(
    student: Projection<'_>,
    teacher: Projection<'_>,
    lesson: Lesson<'_>,
    settled: Settled<'_>,
) -> (Sums, Kept) {
    forward_with(student, teacher, lesson, Some(settled))
}

fn forward_with(
    student: Projection<'_>,
    teacher: Projection<'_>,
    lesson: Lesson<'_>,
    settled: Option<Settled<'_>>,
) -> (Sums, Kept) {
    let Lesson {
        targets,
        token_weights,
        temperature,
        ..
    } = lesson;
    check::len("targets [N]", targets, token_weights.len());
    let tokens = token_weights.len();
    let mut sums = Sums::default();
    let mut lse = LogSumExp {
        student: vec![0.0; tokens],
        teacher: vec![0.0; tokens],
    };
    let mut ahead = settled.and_then(|_| Ahead::of_mean(student, &logits::counted(token_weights), token_weights, 2));
    let mut share_so_far = None;
    let last = for_each_chunk(
        student,
        Some(teacher),
        token_weights,
        temperature,
        None,
        |axes, chunk, rows, logits| {
            let teacher = &logits.teacher;
            let found = map_rows(&mut logits.student, axes.vocabulary, |i, student| {
                let teacher = &teacher[i * student.len()..][..student.len()];
                let (student_lse, teacher_lse) = (logits::log_sum_exp(student), logits::log_sum_exp(teacher));
                // KL = sum of p (t - s) - lse_t + lse_s, with p the teacher's probabilities
                let difference = dispatch(
                    #[inline(always)]
                    || lanes::sum_of2(teacher, student, |t, s| exp(t - teacher_lse) * (t - s)),
                );
                let divergence = difference - f64::from(teacher_lse) + f64::from(student_lse);
                let target = targets[chunk[i]] as usize;
                let cross_entropy = |lse: f32, logits: &[f32]| f64::from(lse) - f64::from(logits[target]);
                let cross_entropies = [cross_entropy(student_lse, student), cross_entropy(teacher_lse, teacher)];
                (divergence, cross_entropies, student_lse, teacher_lse)
            });
            for (&token, (divergence, [by_student, by_teacher], student_lse, teacher_lse)) in chunk.iter().zip(found) {
                let weight = f64::from(token_weights[token]);
                sums.weight += weight;
                sums.divergence += weight * divergence;
                sums.cross_entropy += weight * by_student;
                sums.teacher_cross_entropy += weight * by_teacher;
                lse.student[token] = student_lse;
                lse.teacher[token] = teacher_lse;
            }
            let share = settled.and_then(|settled| settled(&sums));
            if share.is_none() || share_so_far.is_some_and(|so_far| share != Some(so_far)) {
                ahead = None;
            }
            share_so_far = share;
            if let (Some(ahead), Some(teacher_share)) = (&mut ahead, share) {
                let lesson = Lesson {
                    teacher_share,
                    ..lesson
                };
                to_gradients(axes, chunk, logits, lesson, &lse, ahead.scale());
                ahead.add(axes, chunk, rows, student.w, &logits.student);
            }
        },
    );
    let last = match &ahead {
        Some(_) => Logits::default(),
        None => last,
    };
    (sums, Kept { lse, last, ahead })
}

/// The gradients of the student's logits of a chunk, for `scale` times the weighted sum, in their place.
fn to_gradients(axes: Axes, chunk: &[usize], logits: &mut Logits, lesson: Lesson<'_>, lse: &LogSumExp, scale: f32) {
    let Lesson {
        targets,
        token_weights,
        teacher_share,
        temperature,
    } = lesson;
    let teacher = &logits.teacher;
    map_rows(&mut logits.student, axes.vocabulary, |i, student| {
        let token = chunk[i];
        // T^2 from the loss, 1/T from the logits.
        let weight = scale * token_weights[token] * temperature;
        let (student_lse, teacher_lse) = (lse.student[token], lse.teacher[token]);
        if teacher_share == 0.0 {
            // its logits may not be there
            dispatch(
                #[inline(always)]
                || student.iter_mut().for_each(|s| *s = weight * exp(*s - student_lse)),
            );
        } else {
            let teacher = &teacher[i * student.len()..][..student.len()];
            dispatch(
                #[inline(always)]
                || {
                    for (s, &t) in student.iter_mut().zip(teacher) {
                        *s = weight * (exp(*s - student_lse) - teacher_share * exp(t - teacher_lse));
                    }
                },
            );
        }
        student[targets[token] as usize] -= weight * (1.0 - teacher_share);
    });
}

/// Adds the gradient of `scale` x [`Lesson::total`] with respect to the student to `grad_x [N, H]` and `grad_w [V, H]`; the other
/// arguments but for the lesson's share as in [`forward`], `kept` as it returned it. The teacher is a constant.
///
/// # Panics
///
/// As [`forward`].
pub fn backward(
    student: Projection<'_>,
    teacher: Projection<'_>,
    lesson: Lesson<'_>,
    kept: Kept,
    scale: f32,
    grad_x: &mut [f32],
    grad_w: &mut [f32],
) {
    let Lesson {
        targets,
        token_weights,
        temperature,
        ..
    } = lesson;
    check::len("targets [N]", targets, token_weights.len());
    let Kept { lse, last, ahead } = kept;
    check::len("lse.student [N]", &lse.student, token_weights.len());
    check::len("lse.teacher [N]", &lse.teacher, token_weights.len());
    check::len("grad_x [N, H]", grad_x, student.x.len());
    check::len("grad_w [V, H]", grad_w, student.w.len());
    if let Some(ahead) = ahead {
        return ahead.pass_on(scale, grad_x, grad_w);
    }
    for_each_chunk(
        student,
        (lesson.teacher_share != 0.0).then_some(teacher),
        token_weights,
        temperature,
        Some(last),
        |axes, chunk, rows, logits| {
            to_gradients(axes, chunk, logits, lesson, &lse, scale);
            logits::project_backward(axes, chunk, rows, student.w, &logits.student, grad_x, grad_w);
        },
    );
}

/// Calls `work(axes, tokens, student rows, logits)` for each chunk, and gives the logits of the one that came last: from the first on, or from the last
/// one on where the logits of that are there. Without a teacher its logits are those of another chunk, or none.
fn for_each_chunk(
    student: Projection<'_>,
    teacher: Option<Projection<'_>>,
    token_weights: &[f32],
    temperature: f32,
    last: Option<Logits>,
    mut work: impl FnMut(Axes, &[usize], &[f32], &mut Logits),
) -> Logits {
    assert!(temperature > 0.0, "temperature {temperature} is not positive");
    let tokens = logits::counted(token_weights);
    if tokens.is_empty() {
        return Logits::default();
    }
    let axes = student.axes(token_weights.len());
    let teacher = teacher.map(|teacher| (teacher, teacher.axes(token_weights.len())));
    if let Some((_, teacher_axes)) = &teacher {
        assert_eq!(
            axes.vocabulary, teacher_axes.vocabulary,
            "vocabularies of student and teacher"
        );
    }
    let chunks: Vec<(&[usize], bool)> = match last {
        Some(_) => logits::chunks_from_last(&tokens, axes, 2).collect(),
        None => logits::chunks(&tokens, axes, 2).map(|chunk| (chunk, false)).collect(),
    };
    let mut logits = last.unwrap_or_default();
    for (chunk, there) in chunks {
        let rows = student.rows(chunk, axes.hidden);
        if there {
            check::len(
                "student's logits of the last chunk",
                &logits.student,
                chunk.len() * axes.vocabulary,
            );
            check::len(
                "teacher's logits of the last chunk",
                &logits.teacher,
                chunk.len() * axes.vocabulary,
            );
        } else {
            logits::project(axes, &rows, student.w, &mut logits.student);
            elementwise::scale(&mut logits.student, temperature.recip());
            if let Some((teacher, axes)) = teacher {
                let rows = teacher.rows(chunk, axes.hidden);
                logits::project(axes, &rows, teacher.w, &mut logits.teacher);
                elementwise::scale(&mut logits.teacher, temperature.recip());
            }
        }
        work(axes, chunk, &rows, &mut logits);
    }
    logits
}

#[cfg(test)]
mod tests;
