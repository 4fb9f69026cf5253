//! A LLaMA decoder layer of dfdx's own ops: what one writes without this project's, and what it is compared with.
//!
//! Axes: B batch, S sequence, N tokens (B * S), H hidden, A query heads, G key heads, R query heads a key head, D a head's features,
//! F intermediate, Q all query heads, K all key heads, O outputs, I inputs.
#![allow(non_snake_case)]

#[cfg(test)]
mod tests;

use dfdx::nn::modules::NonMutableModule;
use dfdx::prelude::*;
use dfdx_edkm::nn::RmsNorm;
use dfdx_edkm::EdkmDevice;
use edkm_llama::model::{DecoderLayer, Projection};

/// A matrix of run-time shape on a tape.
type Matrix<D, T = NoneTape> = Tensor<(usize, usize), f32, D, T>;
/// Heads beside each other: `[B, A, S, D]`.
type Heads<D, T = NoneTape> = Tensor<(usize, usize, usize, usize), f32, D, T>;

/// The decoder layer whose sizes are known at run time, with the ops of this project.
pub type FusedDecoderLayer<D> = DecoderLayer<usize, usize, usize, usize, D>;

/// The same layer as [`FusedDecoderLayer`] without clustering, of ops that dfdx ships: RMSNorm by square, mean and root; rotary embedding by
/// halves; grouped queries by broadcast; a causal mask on the whole `[B, A, S, S]` map of scores; softmax; SwiGLU by sigmoid.
///
/// Made by [`StockDecoderLayer::like`]; it shares its weights' storage and the identity of their gradients with that layer.
#[derive(Debug, Clone)]
pub struct StockDecoderLayer<D: EdkmDevice> {
    input_norm_H: Norm<D>,
    query_QH: Matrix<D>,
    key_KH: Matrix<D>,
    value_KH: Matrix<D>,
    output_HQ: Matrix<D>,
    head_norms_D: Option<StockHeadNorms<D>>,
    post_attention_norm_H: Norm<D>,
    gate_FH: Matrix<D>,
    up_FH: Matrix<D>,
    down_HF: Matrix<D>,
    heads: HeadSizes,
    /// Cosine of each position's angle, both halves of a head: `[positions, D]`.
    cosines_SD: Matrix<D>,
    /// Sine of the same.
    sines_SD: Matrix<D>,
}

#[derive(Debug, Clone)]
struct Norm<D: EdkmDevice> {
    weight_H: Tensor<(usize,), f32, D>,
    eps: f32,
}

/// The norms of the heads of queries and keys.
#[derive(Debug, Clone)]
struct StockHeadNorms<D: EdkmDevice> {
    query: Norm<D>,
    key: Norm<D>,
}

#[derive(Debug, Clone, Copy)]
struct HeadSizes {
    query: usize,
    key: usize,
    features: usize,
}

/// A layer that cannot be said in stock ops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the projection `{name}` has a bias, which the layer of stock dfdx ops is not written for")]
pub struct HasBias {
    /// The projection, as checkpoints name it.
    pub name: &'static str,
}

impl<D: EdkmDevice> StockDecoderLayer<D> {
    /// The layer with the weights of `layer`, which are shared and not copied. A clustering is left out.
    ///
    /// # Errors
    /// A projection with a bias.
    pub fn like(layer: &FusedDecoderLayer<D>) -> Result<Self, HasBias> {
        let weight = |name, projection: &Projection<usize, usize, D>| match projection.bias {
            None => Ok(projection.weight.clone()),
            Some(_) => Err(HasBias { name }),
        };
        let norm = |norm: &RmsNorm<usize, f32, D>| Norm {
            weight_H: norm.weight.clone(),
            eps: norm.eps as f32,
        };
        let (settings, dev) = (&layer.attention, layer.query.weight.device());
        let table = &settings.rotary;
        let shape = (table.positions(), table.head_dim());
        let both_halves = |half: &[f32]| {
            let rows = half.chunks(table.head_dim() / 2).flat_map(|row| [row, row].concat());
            dev.tensor_from_vec(rows.collect(), shape)
        };
        Ok(Self {
            input_norm_H: norm(&layer.input_norm),
            query_QH: weight("q_proj", &layer.query)?,
            key_KH: weight("k_proj", &layer.key)?,
            value_KH: weight("v_proj", &layer.value)?,
            output_HQ: weight("o_proj", &layer.output)?,
            head_norms_D: layer.head_norms.as_ref().map(|norms| StockHeadNorms {
                query: norm(&norms.query),
                key: norm(&norms.key),
            }),
            post_attention_norm_H: norm(&layer.post_attention_norm),
            gate_FH: weight("gate_proj", &layer.gate)?,
            up_FH: weight("up_proj", &layer.up)?,
            down_HF: weight("down_proj", &layer.down)?,
            heads: HeadSizes {
                query: settings.heads,
                key: settings.kv_heads,
                features: settings.head_dim,
            },
            cosines_SD: both_halves(table.cosines()),
            sines_SD: both_halves(table.sines()),
        })
    }

    fn attend<T: Tape<f32, D> + Merge<T>>(&self, x_NH: Matrix<D, T>, batch: usize) -> Result<Matrix<D, T>, D::Err> {
        let HeadSizes { query, key, features } = self.heads;
        let tokens = x_NH.shape().0;
        let seq = tokens / batch.max(1);
        let in_heads = |x: Matrix<D, T>, heads| -> Result<Heads<D, T>, D::Err> {
            x.try_reshape_like(&(batch, seq, heads, features))?
                .try_permute::<(usize, usize, usize, usize), Axes4<0, 2, 1, 3>>()
        };
        let norms = self.head_norms_D.as_ref();
        let by_head = |norm: Option<&Norm<D>>, x: Matrix<D, T>| match norm {
            None => Ok(x),
            Some(norm) => {
                let shape = *x.shape();
                let heads = (shape.0 * shape.1 / features.max(1), features);
                norm.apply(x.try_reshape_like(&heads)?)?.try_reshape_like(&shape)
            }
        };
        let (x, tape) = x_NH.split_tape();
        let q = linear(x.clone().put_tape(tape), &self.query_QH)?;
        let (q, tape) = by_head(norms.map(|norms| &norms.query), q)?.split_tape();
        let k = linear(x.clone().put_tape(tape), &self.key_KH)?;
        let (k, tape) = by_head(norms.map(|norms| &norms.key), k)?.split_tape();
        let v = linear(x.put_tape(tape), &self.value_KH)?;

        // one tape, that of v; the others start empty and are merged where they meet
        let (v, tape) = v.split_tape();
        let q_BASD = self.turn(in_heads(q.put_tape(tape), query)?)?;
        let k_BASD = repeat(self.turn(in_heads(k.retaped(), key)?)?, query / key.max(1))?;
        let v_BASD = repeat(in_heads(v.retaped(), key)?, query / key.max(1))?;

        let k_BADS = k_BASD.try_permute::<(usize, usize, usize, usize), Axes4<0, 1, 3, 2>>()?;
        let scores_BASS = q_BASD.try_matmul(k_BADS)?.try_mul(1.0 / (features as f32).sqrt())?;
        let shape = *scores_BASS.shape();
        let mask_BASS = causal_mask(scores_BASS.device(), seq)?.try_broadcast_like::<_, Axes2<0, 1>>(&shape)?;
        let map_BASS = scores_BASS.try_add(mask_BASS)?.try_softmax::<Axis<3>>()?;
        let out_BASD = map_BASS.try_matmul(v_BASD)?;
        let out_BSAD = out_BASD.try_permute::<(usize, usize, usize, usize), Axes4<0, 2, 1, 3>>()?;
        linear(out_BSAD.try_reshape_like(&(tokens, query * features))?, &self.output_HQ)
    }

    /// The rotary embedding: x cos + rotated(x) sin, where rotated(x) is the second half negated, then the first.
    fn turn<T: Tape<f32, D> + Merge<T>>(&self, x_BASD: Heads<D, T>) -> Result<Heads<D, T>, D::Err> {
        let shape = *x_BASD.shape();
        let (_, _, seq, features) = shape;
        let angles = |table: &Matrix<D>| {
            let rows = table.clone().try_slice((..seq, ..features))?;
            rows.try_broadcast_like::<_, Axes2<0, 1>>(&shape)
        };
        let half = features / 2;
        let (x, tape) = x_BASD.split_tape();
        // Before the halves are taken: in backward `slice` of dfdx 0.13 overwrites the gradient of what it was taken from, so it must run
        // before the product's backward adds to it.
        let turned = x.clone().put_tape(tape).try_mul(angles(&self.cosines_SD)?)?;
        let (turned, tape) = turned.split_tape();
        let second = x.clone().put_tape(tape).try_slice((.., .., .., half..))?.try_negate()?;
        let (second, tape) = second.split_tape();
        let first = x.put_tape(tape).try_slice((.., .., .., ..half))?;
        let rotated = (second.retaped::<T>(), first).try_concat_along(Axis::<3>)?;
        rotated.try_mul(angles(&self.sines_SD)?)?.try_add(turned)
    }

    fn feed_forward<T: Tape<f32, D> + Merge<T>>(&self, x_NH: Matrix<D, T>) -> Result<Matrix<D, T>, D::Err> {
        let (x, tape) = x_NH.split_tape();
        let (gate, tape) = linear(x.clone().put_tape(tape), &self.gate_FH)?.split_tape();
        let (up, tape) = linear(x.put_tape(tape), &self.up_FH)?.split_tape();
        let silu = gate.clone().put_tape(tape).try_sigmoid()?.try_mul(gate)?;
        linear(silu.try_mul(up)?, &self.down_HF)
    }
}

impl<D: EdkmDevice> NonMutableModule for StockDecoderLayer<D> {}

impl<D: EdkmDevice, T: Tape<f32, D> + Merge<T>> Module<Tensor<(usize, usize, usize), f32, D, T>>
    for StockDecoderLayer<D>
{
    type Output = Tensor<(usize, usize, usize), f32, D, T>;
    type Error = D::Err;

    /// x `[B, S, H]`. Sequences longer than the rotary table are dfdx's panic, as everywhere in dfdx.
    fn try_forward(&self, x_BSH: Tensor<(usize, usize, usize), f32, D, T>) -> Result<Self::Output, D::Err> {
        let shape = *x_BSH.shape();
        let (batch, seq, hidden) = shape;
        let (x, tape) = x_BSH.try_reshape_like(&(batch * seq, hidden))?.split_tape();
        let normed = self.input_norm_H.apply(x.clone().put_tape(tape))?;
        let x = self.attend(normed, batch)?.try_add(x)?;
        let (x, tape) = x.split_tape();
        let normed = self.post_attention_norm_H.apply(x.clone().put_tape(tape))?;
        self.feed_forward(normed)?.try_add(x)?.try_reshape_like(&shape)
    }
}

impl<D: EdkmDevice> Norm<D> {
    /// x / sqrt(mean(x^2) + eps) * w
    fn apply<T: Tape<f32, D> + Merge<T>>(&self, x_NH: Matrix<D, T>) -> Result<Matrix<D, T>, D::Err> {
        let shape = *x_NH.shape();
        let (x, tape) = x_NH.split_tape();
        let mean_N = x.clone().put_tape(tape).try_square()?.try_mean::<(usize,), Axis<1>>()?;
        let root_N = mean_N.try_add(self.eps)?.try_sqrt()?;
        let normed = x
            .retaped::<T>()
            .try_div(root_N.try_broadcast_like::<_, Axis<1>>(&shape)?)?;
        let weight = self.weight_H.retaped::<T>();
        normed.try_mul(weight.try_broadcast_like::<_, Axis<0>>(&shape)?)
    }
}

/// y = x W^T
fn linear<D: EdkmDevice, T: Tape<f32, D> + Merge<T>>(
    x_NI: Matrix<D, T>,
    weight_OI: &Matrix<D>,
) -> Result<Matrix<D, T>, D::Err> {
    x_NI.try_matmul(weight_OI.retaped::<T>().try_permute::<(usize, usize), Axes2<1, 0>>()?)
}

/// Each key head once for every query head that it serves: `[B, G, S, D]` to `[B, G * R, S, D]`.
fn repeat<D: EdkmDevice, T: Tape<f32, D>>(x_BGSD: Heads<D, T>, times: usize) -> Result<Heads<D, T>, D::Err> {
    let (batch, heads, seq, features) = *x_BGSD.shape();
    if times == 1 {
        return Ok(x_BGSD);
    }
    x_BGSD
        .try_broadcast_like::<_, Axis<2>>(&(batch, heads, times, seq, features))?
        .try_reshape_like(&(batch, heads * times, seq, features))
}

/// Zero where the query (row) may look at the key (column), minus infinity where the key comes later.
fn causal_mask<D: EdkmDevice>(dev: &D, seq: usize) -> Result<Matrix<D>, D::Err> {
    let entry = |query: usize, key: usize| if key > query { f32::NEG_INFINITY } else { 0.0 };
    let entries = (0..seq).flat_map(|query| (0..seq).map(move |key| entry(query, key)));
    dev.try_tensor_from_vec(entries.collect(), (seq, seq))
}
