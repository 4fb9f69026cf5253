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
        for (index, layer) in self.layers.iter().enumerate() {
            let _span = tracing::trace_span!("layer", index).entered();
            theirs_BSH = teacher.try_layer(index, theirs_BSH, tokens)?;
            h_BSH = layer.try_forward_saving(self.at_layer(index, h_BSH), tokens.segments.as_ref(), self.recompute)?;
            let (h_NH, distance) = hidden_distance(as_matrix(h_BSH)?, as_matrix(theirs_BSH.clone())?, weight)?;
            distances.push(distance);
            h_BSH = h_NH.try_reshape_like(&shape)?;
        }
        Ok(Beside {
            student: as_matrix(self.norm.try_forward(self.behind_layers(h_BSH))?)?,
            teacher: teacher.try_norm(theirs_BSH)?,
            distances,
        })
    }
}
