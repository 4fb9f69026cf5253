//! The model. It reads like the paper (arXiv 2302.13971); loading, saving and configuration live elsewhere.
//!
//! Sizes are generic: [`DynamicLlama`] takes them from a `config.json` at run time, const ones are checked by the compiler. Axes: B batch,
//! S sequence, N tokens (B * S), H hidden, Q all query heads, K all key heads, F intermediate, V vocabulary.
#![allow(non_snake_case)]

mod build;
mod distillation;
mod files;
mod head_norms;
mod layer;
mod palettes;
mod parts;
mod projection;
mod teacher;
#[cfg(test)]
mod tests;

pub use build::WeightSource;
pub use distillation::Distillation;
pub use head_norms::HeadNorms;
pub use layer::{AttentionSettings, DecoderLayer, Residual};

pub use dfdx_edkm::palette_spec;
pub use palettes::{palettize, ClusterPlan, PalettizedParameter};
pub use parts::largest_part;
pub use projection::Projection;
pub use teacher::{DynamicTeacher, Teacher};

use std::ops::Range;
use std::sync::Arc;

use dfdx::prelude::*;
use dfdx_edkm::nn::RmsNorm;
pub use dfdx_edkm::ops::attention::Segments;
use dfdx_edkm::ops::cross_entropy::{cross_entropy, Targets};
use dfdx_edkm::ops::embedding::embedding;
use dfdx_edkm::ops::linear::linear;
use dfdx_edkm::ops::{as_matrix, Matrix};
use dfdx_edkm::{Clustering, EdkmDevice, EdkmError, SaveForBackward};

use crate::config::LlamaConfig;

/// A LLaMA whose sizes are known at run time.
pub type DynamicLlama<D> = Llama<usize, usize, usize, usize, usize, D>;

/// LLaMA: embedding, decoder layers, norm, output projection.
#[derive(Debug, Clone)]
pub struct Llama<V: Dim, H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> {
    /// The sizes and constants.
    pub config: LlamaConfig,
    /// The embedding, `[vocabulary, hidden]`.
    pub embed_VH: Tensor<(V, H), f32, D>,
    /// How the embedding is clustered; a tied output projection shares it.
    pub embed_clustering: Option<Clustering>,
    /// The decoder.
    pub layers: Vec<DecoderLayer<H, Q, K, F, D>>,
    /// The norm before the output projection.
    pub norm: RmsNorm<H, f32, D>,
    /// The output projection; `None` if it is the embedding.
    pub head: Option<Projection<H, V, D>>,
    /// What of the layers is run again in backward.
    pub recompute: Recompute,
}

/// What of the layers is run again in backward, so that its inside need not be saved. Gradients are the same bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recompute {
    /// Nothing: saved is what the ops need.
    #[default]
    Nothing,
    /// From a layer's input to attention's output (selective recomputation, arXiv 2205.05198): saved are the input, the sum behind attention,
    /// gate and up, at the cost of three of the seven projections' forward passes and attention's.
    Attention,
    /// Whole layers: saved is their input alone, at the cost of a second forward pass.
    Layers,
}

/// Token ids of `batch` sequences of equal length, one behind the other.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// `[batch * seq]`
    pub ids: Arc<[u32]>,
    /// Number of sequences.
    pub batch: usize,
    /// The texts in the sequences that do not see each other; `None`: all positions of a sequence see those before them.
    pub segments: Option<Segments>,
}

impl Tokens {
    /// Tokens of each sequence.
    pub fn seq(&self) -> usize {
        self.ids.len().checked_div(self.batch).unwrap_or(0)
    }
}

impl<V: Dim, H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> Llama<V, H, Q, K, F, D> {
    /// The hidden state `[N, H]` behind the last norm.
    ///
    /// # Errors
    /// Ids that are no whole sequences, an id outside the vocabulary, sequences longer than the rotary table, a store that fails: the reason is in the
    /// tape's failure.
    pub fn try_hidden<T: SaveForBackward<D>>(&self, tokens: &Tokens, tape: T) -> Result<Matrix<D, T>, D::Err> {
        let h_BSH = self.try_embed(tokens, tape)?;
        let h_BSH = self.try_layers(0..self.layers.len(), h_BSH, tokens.segments.as_ref())?;
        self.try_norm(h_BSH)
    }

    /// What the first layer is given, `[batch, seq, hidden]`.
    ///
    /// # Errors
    /// Ids that are no whole sequences, an id outside the vocabulary, a store that fails.
    pub fn try_embed<T: SaveForBackward<D>>(
        &self,
        tokens: &Tokens,
        tape: T,
    ) -> Result<Residual<usize, usize, H, D, T>, D::Err> {
        let (ids, batch, seq) = (tokens.ids.len(), tokens.batch, tokens.seq());
        if seq == 0 || batch * seq != ids {
            return Err(tape.fail(EdkmError::Shape {
                op: "llama",
                expected: "sequences of one length, of at least one token".to_owned(),
                got: format!("{ids} ids for a batch of {batch}"),
            }));
        }
        let tape = self.at_embedding(tape);
        let table = as_matrix(self.embed_VH.clone())?;
        let h_NH = embedding(tokens.ids.clone(), &table, self.embed_clustering.as_ref(), tape)?;
        h_NH.try_reshape_like(&(batch, seq, self.embed_VH.shape().1))
    }

    /// What is behind some layers, one after the other, of what is given to the first of them; `segments` are those of the tokens.
    ///
    /// # Errors
    /// Layers that the model has not, sequences longer than the rotary table, a store that fails.
    pub fn try_layers<T: SaveForBackward<D>>(
        &self,
        layers: Range<usize>,
        mut h_BSH: Residual<usize, usize, H, D, T>,
        segments: Option<&Segments>,
    ) -> Result<Residual<usize, usize, H, D, T>, D::Err> {
        let Some(chosen) = self.layers.get(layers.clone()) else {
            return Err(h_BSH.split_tape().1.fail(EdkmError::Shape {
                op: "llama",
                expected: format!("layers of the {} that there are", self.layers.len()),
                got: format!("{layers:?}"),
            }));
        };
        for (index, layer) in layers.zip(chosen) {
            let _span = tracing::trace_span!("layer", index).entered();
            h_BSH = layer.try_forward_saving(self.at_layer(index, h_BSH), segments, self.recompute)?;
        }
        Ok(h_BSH)
    }

    fn try_norm<T: SaveForBackward<D>>(&self, h_BSH: Residual<usize, usize, H, D, T>) -> Result<Matrix<D, T>, D::Err> {
        as_matrix(self.norm.try_forward(self.behind_layers(h_BSH))?)
    }

    /// Logits `[N, V]` of the token that follows each one: for tests and short texts, since they are whole.
    ///
    /// # Errors
    /// Those of [`Self::try_hidden`].
    pub fn try_logits<T: SaveForBackward<D>>(&self, tokens: &Tokens, tape: T) -> Result<Matrix<D, T>, D::Err> {
        let h_NH = self.try_hidden(tokens, tape)?;
        let (head, clustering) = self.head_weight()?;
        linear(h_NH, &head, None, clustering)
    }

    /// Mean cross-entropy of `targets`, in nats a token. Logits are computed in chunks and never kept.
    ///
    /// # Errors
    /// Those of [`Self::try_hidden`], and targets that do not fit.
    pub fn try_loss<T: SaveForBackward<D>>(
        &self,
        tokens: &Tokens,
        targets: Targets,
        tape: T,
    ) -> Result<Tensor<Rank0, f32, D, T>, D::Err> {
        let h_BSH = self.try_embed(tokens, tape)?;
        self.try_loss_from(0, h_BSH, tokens.segments.as_ref(), targets)
    }

    /// The same of what is given to the layer `first` ([`Self::try_layers`]): where only what comes from there on changes, what is before is computed once.
    ///
    /// # Errors
    /// As [`Self::try_loss`]; more layers than the model has.
    pub fn try_loss_from<T: SaveForBackward<D>>(
        &self,
        first: usize,
        h_BSH: Residual<usize, usize, H, D, T>,
        segments: Option<&Segments>,
        targets: Targets,
    ) -> Result<Tensor<Rank0, f32, D, T>, D::Err> {
        let h_BSH = self.try_layers(first..self.layers.len(), h_BSH, segments)?;
        let (head, clustering) = self.head_weight()?;
        cross_entropy(self.try_norm(h_BSH)?, &head, clustering, targets)
    }

    /// The matrix that turns hidden states into logits, and how it is clustered.
    ///
    /// # Errors
    /// The device's.
    pub fn head_weight(&self) -> Result<(Matrix<D>, Option<&Clustering>), D::Err> {
        match &self.head {
            Some(head) => Ok((as_matrix(head.weight.clone())?, head.clustering.as_ref())),
            None => Ok((as_matrix(self.embed_VH.clone())?, self.embed_clustering.as_ref())),
        }
    }
}
