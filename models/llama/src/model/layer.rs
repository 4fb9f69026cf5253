//! One decoder layer.

use std::sync::Arc;

use dfdx::nn::modules::NonMutableModule;
use dfdx::prelude::*;
use dfdx_edkm::nn::RmsNorm;
use dfdx_edkm::ops::add::add;
use dfdx_edkm::ops::attention::{attention_of_segments, AttentionDims, Segments};
use dfdx_edkm::ops::rotary::{rotary, RotaryDims};
use dfdx_edkm::ops::swiglu::swiglu;
use dfdx_edkm::ops::{as_matrix, Matrix};
use dfdx_edkm::{try_checkpoint_with, try_rematerialize, EdkmDevice, ParameterVisitor, Parameters, SaveForBackward};
use edkm_kernels::rotary::Table;

use super::head_norms::{by_head, HeadNorms};
use super::{Projection, Recompute};

/// What goes from layer to layer.
pub type Residual<B, S, H, D, T> = Tensor<(B, S, H), f32, D, T>;

/// Attention and feed-forward part, each behind a norm and beside a residual connection.
#[derive(Debug, Clone)]
pub struct DecoderLayer<H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> {
    /// The norm before attention.
    pub input_norm: RmsNorm<H, f32, D>,
    /// Queries.
    pub query: Projection<H, Q, D>,
    /// Keys.
    pub key: Projection<H, K, D>,
    /// Values.
    pub value: Projection<H, K, D>,
    /// Attention's output.
    pub output: Projection<Q, H, D>,
    /// Norms of the heads of queries and keys; `None` in a LLaMA.
    pub head_norms: Option<HeadNorms<D>>,
    /// The norm before the feed-forward part.
    pub post_attention_norm: RmsNorm<H, f32, D>,
    /// The gate.
    pub gate: Projection<H, F, D>,
    /// What is gated.
    pub up: Projection<H, F, D>,
    /// Back to the hidden size.
    pub down: Projection<F, H, D>,
    /// Heads and positions.
    pub attention: AttentionSettings,
}

/// How the features of queries and keys are divided into heads, and where they stand.
#[derive(Debug, Clone)]
pub struct AttentionSettings {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Angles of each position.
    pub rotary: Arc<Table>,
}

impl<H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> DecoderLayer<H, Q, K, F, D> {
    /// The layer, with what it saves for backward. Positions see those of their segment alone, if there are segments.
    ///
    /// # Errors
    /// Shapes that do not fit; a store that fails.
    pub fn try_forward_saving<B: Dim, S: Dim, T: SaveForBackward<D>>(
        &self,
        x_BSH: Residual<B, S, H, D, T>,
        segments: Option<&Segments>,
        recompute: Recompute,
    ) -> Result<Residual<B, S, H, D, T>, D::Err> {
        let shape = *x_BSH.shape();
        let (batch, seq) = (shape.0.size(), shape.1.size());
        let (x, tape) = match recompute {
            Recompute::Layers => {
                return try_checkpoint_with(
                    x_BSH,
                    |x| self.try_forward_saving(x, segments, Recompute::Nothing),
                    || Again {
                        layer: self.clone(),
                        segments: segments.cloned(),
                    },
                )
            }
            Recompute::Nothing | Recompute::Attention => as_matrix(x_BSH)?.split_tape(),
        };
        let normed_x = x.clone().put_tape(tape);
        let attended = match recompute {
            Recompute::Attention => try_rematerialize(
                normed_x,
                |x| self.attend(x, batch, seq, segments),
                || AttentionAgain {
                    layer: self.clone(),
                    batch,
                    seq,
                    segments: segments.cloned(),
                },
            )?,
            Recompute::Nothing | Recompute::Layers => self.attend(normed_x, batch, seq, segments)?,
        };
        self.behind_attention(x, attended, Projection::apply)?
            .try_reshape_like(&shape)
    }

    /// From the layer's input `x` and what attention gives for it to the layer's output, with `down` for the last product.
    fn behind_attention<T: SaveForBackward<D>>(
        &self,
        x: Matrix<D>,
        attended: Matrix<D, T>,
        down: impl FnOnce(&Projection<F, H, D>, Matrix<D, T>) -> Result<Matrix<D, T>, D::Err>,
    ) -> Result<Matrix<D, T>, D::Err> {
        let x = add(x.retaped(), self.output.apply(attended)?)?;
        let (x, tape) = x.split_tape();
        let normed = as_matrix(self.post_attention_norm.try_forward(x.clone().put_tape(tape))?)?;
        add(x.retaped(), down(&self.down, self.try_gated(normed)?)?)
    }

    /// From the layer's input to the input of attention's output projection.
    fn attend<T: SaveForBackward<D>>(
        &self,
        x: Matrix<D, T>,
        batch: usize,
        seq: usize,
        segments: Option<&Segments>,
    ) -> Result<Matrix<D, T>, D::Err> {
        let normed = as_matrix(self.input_norm.try_forward(x)?)?;
        self.try_attended(normed, batch, seq, segments)
    }

    /// What the output projection is given: the values that each of the normed inputs `x` `[batch * seq, hidden]` attends to, in its segment alone if there
    /// are segments.
    ///
    /// # Errors
    /// Shapes that do not fit, a store that fails.
    pub fn try_attended<T: SaveForBackward<D>>(
        &self,
        x: Matrix<D, T>,
        batch: usize,
        seq: usize,
        segments: Option<&Segments>,
    ) -> Result<Matrix<D, T>, D::Err> {
        let AttentionSettings {
            heads,
            kv_heads,
            head_dim,
            rotary: ref table,
        } = self.attention;
        let turn = |heads| RotaryDims {
            table: table.clone(),
            heads,
            seq,
        };
        let norms = self.head_norms.as_ref();
        let normed = |norm: Option<&_>, x| match norm {
            Some(norm) => by_head(norm, x),
            None => Ok(x),
        };
        // one tape, handed from product to product: q, k and v read the same x
        let (x, tape) = x.split_tape();
        let q = normed(
            norms.map(|norms| &norms.query),
            self.query.apply(x.clone().put_tape(tape))?,
        )?;
        let (q, tape) = rotary(q, turn(heads))?.split_tape();
        let k = normed(norms.map(|norms| &norms.key), self.key.apply(x.clone().put_tape(tape))?)?;
        let (k, tape) = rotary(k, turn(kv_heads))?.split_tape();
        let v = self.value.apply(x.put_tape(tape))?;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let dims = AttentionDims {
            batch,
            seq,
            heads,
            kv_heads,
            head_dim,
            scale,
        };
        attention_of_segments(q.retaped(), k.retaped(), v, dims, segments)
    }

    /// What the down projection is given: the gated features of the normed inputs `x` `[tokens, hidden]`.
    ///
    /// # Errors
    /// Shapes that do not fit, a store that fails.
    pub fn try_gated<T: SaveForBackward<D>>(&self, x: Matrix<D, T>) -> Result<Matrix<D, T>, D::Err> {
        let (x, tape) = x.split_tape();
        let (gate, tape) = self.gate.apply(x.clone().put_tape(tape))?.split_tape();
        let up = self.up.apply(x.put_tape(tape))?;
        swiglu(gate.retaped(), up)
    }
}

impl<H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> NonMutableModule for DecoderLayer<H, Q, K, F, D> {}

impl<B: Dim, S: Dim, H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice, T: SaveForBackward<D>>
    Module<Tensor<(B, S, H), f32, D, T>> for DecoderLayer<H, Q, K, F, D>
{
    type Output = Tensor<(B, S, H), f32, D, T>;
    type Error = D::Err;

    fn try_forward(&self, x_BSH: Tensor<(B, S, H), f32, D, T>) -> Result<Self::Output, D::Err> {
        self.try_forward_saving(x_BSH, None, Recompute::Nothing)
    }
}

/// A layer, to be run again in backward: all but its last product.
struct Again<H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> {
    layer: DecoderLayer<H, Q, K, F, D>,
    segments: Option<Segments>,
}

impl<B: Dim, S: Dim, H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice, T: SaveForBackward<D>>
    Module<Residual<B, S, H, D, T>> for Again<H, Q, K, F, D>
{
    type Output = Residual<B, S, H, D, T>;
    type Error = D::Err;

    fn try_forward(&self, x_BSH: Residual<B, S, H, D, T>) -> Result<Self::Output, D::Err> {
        let shape = *x_BSH.shape();
        let (batch, seq) = (shape.0.size(), shape.1.size());
        let (x, tape) = as_matrix(x_BSH)?.split_tape();
        let attended = self
            .layer
            .attend(x.clone().put_tape(tape), batch, seq, self.segments.as_ref())?;
        // what comes of the last product is known to those who read it
        self.layer
            .behind_attention(x, attended, Projection::record)?
            .try_reshape_like(&shape)
    }
}

/// A layer up to attention's output projection, to be run again in backward.
struct AttentionAgain<H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> {
    layer: DecoderLayer<H, Q, K, F, D>,
    batch: usize,
    seq: usize,
    segments: Option<Segments>,
}

impl<H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice, T: SaveForBackward<D>> Module<Matrix<D, T>>
    for AttentionAgain<H, Q, K, F, D>
{
    type Output = Matrix<D, T>;
    type Error = D::Err;

    fn try_forward(&self, x: Matrix<D, T>) -> Result<Self::Output, D::Err> {
        self.layer.attend(x, self.batch, self.seq, self.segments.as_ref())
    }
}

impl<H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> Parameters<D> for DecoderLayer<H, Q, K, F, D> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        self.input_norm
            .visit_parameters(&format!("{prefix}input_layernorm."), visitor)?;
        self.query
            .visit_parameters(&format!("{prefix}self_attn.q_proj."), visitor)?;
        self.key
            .visit_parameters(&format!("{prefix}self_attn.k_proj."), visitor)?;
        self.value
            .visit_parameters(&format!("{prefix}self_attn.v_proj."), visitor)?;
        self.output
            .visit_parameters(&format!("{prefix}self_attn.o_proj."), visitor)?;
        if let Some(norms) = &mut self.head_norms {
            norms.visit_parameters(&format!("{prefix}self_attn."), visitor)?;
        }
        self.post_attention_norm
            .visit_parameters(&format!("{prefix}post_attention_layernorm."), visitor)?;
        self.gate
            .visit_parameters(&format!("{prefix}mlp.gate_proj."), visitor)?;
        self.up.visit_parameters(&format!("{prefix}mlp.up_proj."), visitor)?;
        self.down.visit_parameters(&format!("{prefix}mlp.down_proj."), visitor)
    }
}
