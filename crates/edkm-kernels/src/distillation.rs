//! The loss that makes a student's distribution follow a teacher's, with both output projections in chunks of tokens.
//!
//! For each token, `T^2 (a KL(softmax(t / T) || softmax(s / T)) - (1 - a) log softmax(s / T)[target])` with teacher logits t, student
//! logits s and the text's token as target: a share `a` is learned from the teacher, the rest from the text. The factor T^2 keeps the
//! gradient's size independent of the temperature T.
//!
//! Memory: logits of one chunk for teacher and student, together at most 64 MiB or 32 x V x 4 bytes.
//!
//! # Source
//!
//! G. Hinton, O. Vinyals and J. Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531, section 2.

use crate::{
    check,
    elementwise::{self, exp},
    lanes::{self, dispatch},
    logits::{self, map_rows, Axes},
};

pub use crate::logits::Projection;

/// Log-sum-exp of each token's logits over the temperature (0 where the weight is 0), which backward needs.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSumExp {
    /// Of the student `[N]`.
    pub student: Vec<f32>,
    /// Of the teacher `[N]`.
    pub teacher: Vec<f32>,
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
pub fn forward(student: Projection<'_>, teacher: Projection<'_>, lesson: Lesson<'_>) -> (Sums, LogSumExp) {
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
    for_each_chunk(
        student,
        teacher,
        token_weights,
        temperature,
        |axes, chunk, _, student, teacher| {
            let found = map_rows(student, axes.vocabulary, |i, student| {
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
        },
    );
    (sums, lse)
}

/// Adds the gradient of `scale` x [`Lesson::total`] with respect to the student to `grad_x [N, H]` and `grad_w [V, H]`; the other
/// arguments as in [`forward`], `lse` as it returned it. The teacher is a constant.
///
/// # Panics
///
/// As [`forward`].
pub fn backward(
    student: Projection<'_>,
    teacher: Projection<'_>,
    lesson: Lesson<'_>,
    lse: &LogSumExp,
    scale: f32,
    grad_x: &mut [f32],
    grad_w: &mut [f32],
) {
    let Lesson {
        targets,
        token_weights,
        teacher_share,
        temperature,
    } = lesson;
    check::len("targets [N]", targets, token_weights.len());
    check::len("lse.student [N]", &lse.student, token_weights.len());
    check::len("lse.teacher [N]", &lse.teacher, token_weights.len());
    check::len("grad_x [N, H]", grad_x, student.x.len());
    check::len("grad_w [V, H]", grad_w, student.w.len());
    for_each_chunk(
        student,
        teacher,
        token_weights,
        temperature,
        |axes, chunk, rows, logits, teacher| {
            map_rows(logits, axes.vocabulary, |i, student| {
                let token = chunk[i];
                // T^2 from the loss, 1/T from the logits.
                let weight = scale * token_weights[token] * temperature;
                let (student_lse, teacher_lse) = (lse.student[token], lse.teacher[token]);
                let teacher = &teacher[i * student.len()..][..student.len()];
                dispatch(
                    #[inline(always)]
                    || {
                        for (s, &t) in student.iter_mut().zip(teacher) {
                            *s = weight * (exp(*s - student_lse) - teacher_share * exp(t - teacher_lse));
                        }
                    },
                );
                student[targets[token] as usize] -= weight * (1.0 - teacher_share);
            });
            logits::project_backward(axes, chunk, rows, student.w, logits, grad_x, grad_w);
        },
    );
}

/// Calls `work(axes, tokens, student rows, student logits, teacher logits)` for each chunk, logits over the temperature.
fn for_each_chunk(
    student: Projection<'_>,
    teacher: Projection<'_>,
    token_weights: &[f32],
    temperature: f32,
    mut work: impl FnMut(Axes, &[usize], &[f32], &mut [f32], &[f32]),
) {
    assert!(temperature > 0.0, "temperature {temperature} is not positive");
    let tokens = logits::counted(token_weights);
    if tokens.is_empty() {
        return;
    }
    let axes = student.axes(token_weights.len());
    let teacher_axes = teacher.axes(token_weights.len());
    assert_eq!(
        axes.vocabulary, teacher_axes.vocabulary,
        "vocabularies of student and teacher"
    );
    let (mut of_student, mut of_teacher) = (Vec::new(), Vec::new());
    for chunk in logits::chunks(&tokens, axes.vocabulary, 2) {
        let rows = student.rows(chunk, axes.hidden);
        logits::project(axes, &rows, student.w, &mut of_student);
        logits::project(
            teacher_axes,
            &teacher.rows(chunk, teacher_axes.hidden),
            teacher.w,
            &mut of_teacher,
        );
        elementwise::scale(&mut of_student, temperature.recip());
        elementwise::scale(&mut of_teacher, temperature.recip());
        work(axes, chunk, &rows, &mut of_student, &of_teacher);
    }
}

#[cfg(test)]
mod tests;
