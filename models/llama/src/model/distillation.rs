//! Learning from another model: its predictions (arXiv 1503.02531) and its hidden states (arXiv 1412.6550).
#![allow(non_snake_case)]

use dfdx::prelude::*;
use dfdx_edkm::ops::cross_entropy::Targets;
use dfdx_edkm::ops::distillation::{self, distillation, Taught};
use dfdx_edkm::ops::hidden_distance::{add_distances, hidden_distance};
use dfdx_edkm::ops::{as_matrix, Matrix};
use dfdx_edkm::{EdkmDevice, EdkmError, SaveForBackward};

use super::{Llama, Teacher, Tokens};

/// What a model learns of a teacher.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distillation {
    /// The share of the loss, from 0 to 1, that is the mean divergence from the teacher's predictions; the rest is the text's cross-entropy.
    pub share: f32,
    /// The weight of the distance of hidden states from the teacher's (see [`mod@dfdx_edkm::ops::hidden_distance`]), the mean over layers of that behind each, which
    /// comes to the loss besides; 0 for none.
    pub hidden: f32,
    /// Both fade as the model comes to predict the text better than the teacher does, and are gone once it does so by as many nats a token; infinity
    /// for never.
    pub fade: f32,
}

/// Two models' hidden states `[N, H]` behind the last norm.
struct Beside<D: EdkmDevice, T> {
    student: Matrix<D, T>,
    teacher: Matrix<D>,
    /// Behind each layer.
    distances: Vec<Tensor<Rank0, f32, D>>,
}

impl<V: Dim, H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> Llama<V, H, Q, K, F, D> {
    /// What the model loses against `teacher`, the one that it is to stand for, and the mean cross-entropy of `targets`, as `lesson` weighs them; in
    /// nats a token, beside the distances of hidden states, which have no unit and are in the loss too. The teacher runs without a tape.
    ///
    /// # Errors
    /// Those of [`Self::try_hidden`], a teacher of another vocabulary, and, if hidden states are compared, one of another depth or width.
    pub fn try_distillation_loss<T: SaveForBackward<D>>(
        &self,
        teacher: &Teacher<V, H, Q, K, F, D>,
        lesson: Distillation,
        tokens: &Tokens,
        targets: Targets,
        tape: T,
    ) -> Result<Taught<D, T>, D::Err> {
        let Beside {
            student: h_NH,
            teacher: hidden,
            distances,
        } = match lesson.hidden {
            0.0 => Beside {
                teacher: teacher.try_hidden(tokens)?,
                student: self.try_hidden(tokens, tape)?,
                distances: Vec::new(),
            },
            weight => self.try_hidden_beside(teacher, weight / self.layers.len().max(1) as f32, tokens, tape)?,
        };
        let teacher = distillation::Teacher {
            hidden,
            head: teacher.head_weight()?,
            // the student learns the teacher's probabilities as they are
            temperature: 1.0,
            share: lesson.share,
            fade: lesson.fade,
        };
        let (head, clustering) = self.head_weight()?;
        let taught = distillation(h_NH, &head, clustering, teacher, targets)?;
        Ok(Taught {
            loss: add_distances(taught.loss, &distances, taught.trust)?,
            ..taught
        })
    }

    /// Both models' hidden states behind the last norm, and the distance of the students' from the teacher's behind each layer, times `weight`. Layer by
    /// layer, so that of the teacher one layer's are there at a time.
    fn try_hidden_beside<T: SaveForBackward<D>>(
        &self,
        teacher: &Teacher<V, H, Q, K, F, D>,
        weight: f32,
        tokens: &Tokens,
        tape: T,
    ) -> Result<Beside<D, T>, D::Err> {
        if self.layers.len() != teacher.depth() {
            return Err(tape.fail(EdkmError::Shape {
                op: "distillation of hidden states",
                expected: format!("a teacher of as many layers, {}", self.layers.len()),
                got: format!("{}", teacher.depth()),
            }));
        }
        let mut theirs_BSH = teacher.try_embed(tokens)?;
        let mut h_BSH = self.try_embed(tokens, tape)?;
        let shape = *h_BSH.shape();
        let mut distances = Vec::with_capacity(self.layers.len());
        for index in 0..self.layers.len() {
            theirs_BSH = teacher.try_layer(index, theirs_BSH, tokens)?;
            h_BSH = self.try_layers(index..index + 1, h_BSH, tokens.segments.as_ref())?;
            let (h_NH, distance) = hidden_distance(as_matrix(h_BSH)?, as_matrix(theirs_BSH.clone())?, weight)?;
            distances.push(distance);
            h_BSH = h_NH.try_reshape_like(&shape)?;
        }
        Ok(Beside {
            student: self.try_norm(h_BSH)?,
            teacher: teacher.try_norm(theirs_BSH)?,
            distances,
        })
    }
}

#[cfg(test)]
mod tests {
    use dfdx_edkm::{backward, StoreTape};
    use edkm_store::Store;
    use edkm_testkit::assert_close;

    use super::super::{DynamicLlama, DynamicTeacher, Segments};
    use super::*;
    use crate::inference::testing::{config, dense, seed_of, tokens as random_tokens};
    use crate::names::Parameter;

    fn model(seed: u64) -> DynamicLlama<Cpu> {
        let mut weight = |parameter: &Parameter| Ok(dense(parameter, seed_of(parameter) ^ seed));
        DynamicLlama::from_weights(&config(), &Cpu::default(), &mut weight).unwrap()
    }

    /// Texts of 5, 1, 6 and 12 tokens in two sequences.
    fn tokens() -> Tokens {
        Tokens {
            ids: random_tokens(3, 24, &config()).into(),
            batch: 2,
            segments: Segments::new(12, [5, 1, 6, 12]),
        }
    }

    /// Of which some do not count.
    fn targets() -> Targets {
        Targets {
            ids: random_tokens(4, 24, &config()).into(),
            weights: (0..24).map(|at| [1.0, 1.0, 0.0][at % 3]).collect(),
        }
    }

    /// The logarithms of each token's probabilities.
    fn log_probabilities(model: &DynamicLlama<Cpu>) -> Vec<Vec<f64>> {
        let logits = model.try_logits(&tokens(), NoneTape).unwrap().as_vec();
        let of_token = |logits: &[f32]| -> Vec<f64> {
            let sum = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>();
            logits.iter().map(|&x| f64::from(x) - sum.ln()).collect()
        };
        logits.chunks(config().vocab_size).map(of_token).collect()
    }

    /// The mean over the tokens that count.
    fn mean(of_token: impl Fn(usize) -> f64) -> f64 {
        let weights = targets().weights;
        let weighted = (0..24).map(|at| f64::from(weights[at]) * of_token(at));
        weighted.sum::<f64>() / weights.iter().map(|&weight| f64::from(weight)).sum::<f64>()
    }

    fn cross_entropy(log_probabilities: &[Vec<f64>]) -> f64 {
        let ids = targets().ids;
        mean(|at| -log_probabilities[at][ids[at] as usize])
    }

    /// The hidden states behind each layer, `[N, H]`.
    fn states(model: &DynamicLlama<Cpu>) -> Vec<Vec<f32>> {
        let as_teacher = DynamicTeacher::new(model).unwrap();
        let mut h_BSH = as_teacher.try_embed(&tokens()).unwrap();
        let behind = |index: usize| {
            h_BSH = as_teacher.try_layer(index, h_BSH.clone(), &tokens()).unwrap();
            h_BSH.as_vec()
        };
        (0..as_teacher.depth()).map(behind).collect()
    }

    /// The mean over layers and tokens of |x - y|^2 / |y|^2.
    fn distance(student: &DynamicLlama<Cpu>, teacher: &DynamicLlama<Cpu>) -> f64 {
        let width = config().hidden_size;
        let squares = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        let of_layer = |(x, y): (Vec<f32>, Vec<f32>)| {
            let rows = x.chunks(width).zip(y.chunks(width)).map(|(x, y)| {
                let between: Vec<f32> = x.iter().zip(y).map(|(x, y)| x - y).collect();
                squares(&between) / squares(y)
            });
            rows.sum::<f64>() / 24.0
        };
        let layers = states(student).into_iter().zip(states(teacher));
        layers.map(of_layer).sum::<f64>() / config().num_hidden_layers as f64
    }

    #[test]
    fn the_loss_is_that_of_its_definition() {
        let (one, other) = (model(0), model(1));
        let ahead = (cross_entropy(&log_probabilities(&one)) - cross_entropy(&log_probabilities(&other))).abs();
        assert!(ahead > 0.01, "{ahead}");
        let mut seen = Vec::new();
        for (student, teacher) in [(&one, &other), (&other, &one)] {
            for (hidden, fade) in [(0.0, f64::INFINITY), (3.0, f64::INFINITY), (3.0, 1.6 * ahead)] {
                let lesson = Distillation {
                    share: 0.3,
                    hidden,
                    fade: fade as f32,
                };
                let frozen = DynamicTeacher::new(teacher).unwrap();
                let got = student
                    .try_distillation_loss(&frozen, lesson, &tokens(), targets(), NoneTape)
                    .unwrap();
                let (p, q) = (log_probabilities(teacher), log_probabilities(student));
                let divergence = mean(|at| {
                    let terms = p[at].iter().zip(&q[at]).map(|(p, q)| p.exp() * (p - q));
                    terms.sum()
                });
                let better = cross_entropy(&p) - cross_entropy(&q);
                let trust = (1.0 - better.max(0.0) / fade).max(0.0);
                assert_close("trust", &[got.trust], &[trust], 1e-4);
                assert_close("cross-entropy", &[got.cross_entropy], &[cross_entropy(&q)], 1e-5);
                let share = 0.3 * trust;
                let of_hidden = f64::from(hidden) * trust * distance(student, teacher);
                let want = (1.0 - share) * cross_entropy(&q) + share * divergence + of_hidden;
                assert_close("loss", &[got.loss.array()], &[want], 2e-5);
                seen.push(trust < 1.0);
            }
        }
        assert_eq!(
            seen.iter().filter(|&&is_ahead| is_ahead).count(),
            1,
            "one of them is ahead, and fades once"
        );
    }

    /// Along the gradient of a matrix the loss rises by the square of its length.
    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let (mut student, teacher) = (model(0), DynamicTeacher::new(&model(1)).unwrap());
        let lesson = Distillation {
            share: 0.3,
            hidden: 3.0,
            fade: f32::INFINITY,
        };
        let tape = StoreTape::new(Store::marshaling(), Gradients::leaky());
        let taught = student
            .try_distillation_loss(&teacher, lesson, &tokens(), targets(), tape)
            .unwrap();
        let gradients = backward(taught.loss).unwrap();
        let gradient = gradients.get(&student.layers[0].query.weight).as_vec();
        let squares = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
        let weight = student.layers[0].query.weight.as_vec();
        let step = 0.01 / squares;
        let mut loss = |times: f64| {
            let moved = weight
                .iter()
                .zip(&gradient)
                .map(|(&w, &g)| (f64::from(w) + times * step * f64::from(g)) as f32);
            student.layers[0].query.weight.copy_from(&moved.collect::<Vec<_>>());
            let taught = student.try_distillation_loss(&teacher, lesson, &tokens(), targets(), NoneTape);
            f64::from(taught.unwrap().loss.array())
        };
        let rise = (loss(1.0) - loss(-1.0)) / 2.0;
        assert_close("rise", &[rise], &[0.01], 5e-3);
    }
}
