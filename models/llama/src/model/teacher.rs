//! A model that others learn of, and that is not trained itself.
#![allow(non_snake_case)]

use dfdx::prelude::*;
use dfdx_edkm::nn::RmsNorm;
use dfdx_edkm::ops::{as_matrix, Matrix};
use dfdx_edkm::{Clustering, EdkmDevice, HalfTensor};

use super::build::Build;
use super::{AttentionSettings, DecoderLayer, HeadNorms, Llama, Projection, Residual, Tokens, WeightSource};
use crate::config::LlamaConfig;
use crate::names::Kind;
use crate::LlamaError;

/// A [`Llama`] that is not trained, with the same outputs to the bit. Matrices of the decoder that lose nothing in 16 bits, as those of most published models,
/// are kept so, and widened for the layer that runs: 2 bytes a parameter, and 4 of one layer for as long as it runs. Everything else, and matrices with
/// other numbers, shares the memory of the model that it was made of until that is changed.
pub struct Teacher<V: Dim, H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> {
    /// The model without its layers.
    around: Llama<V, H, Q, K, F, D>,
    layers: Vec<FrozenLayer<H, Q, K, F, D>>,
}

/// A teacher whose sizes are known at run time.
pub type DynamicTeacher<D> = Teacher<usize, usize, usize, usize, usize, D>;

impl<V: Dim, H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> Teacher<V, H, Q, K, F, D> {
    /// The model as it is now.
    ///
    /// # Errors
    /// The device's.
    pub fn new(model: &Llama<V, H, Q, K, F, D>) -> Result<Self, D::Err> {
        Ok(Self {
            around: Llama {
                config: model.config.clone(),
                embed_VH: model.embed_VH.clone(),
                embed_clustering: model.embed_clustering.clone(),
                layers: Vec::new(),
                norm: model.norm.clone(),
                head: model.head.clone(),
                recompute: model.recompute,
            },
            layers: model.layers.iter().map(FrozenLayer::new).collect::<Result<_, _>>()?,
        })
    }

    /// The model that `config` describes, read layer by layer: of one layer alone there are 4 bytes a parameter meanwhile.
    ///
    /// # Errors
    /// A configuration that [is none](LlamaConfig::validate), or does not fit const dimensions; the errors of `weights`; the device's.
    pub fn from_weights(config: &LlamaConfig, device: &D, weights: &mut impl WeightSource) -> Result<Self, LlamaError> {
        let mut build = Build::new(config, device, weights)?;
        let embed_VH = build.tensor(Kind::EmbedTokens)?;
        let layer = |index| {
            FrozenLayer::new(&build.layer(index)?).map_err(|error| LlamaError::Device {
                name: format!("layer {index}"),
                reason: error.to_string(),
            })
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?;
        Ok(Self {
            around: build.around(embed_VH, Vec::new())?,
            layers,
        })
    }

    /// Bytes that it shares with the model that it was made of, and that are copied when that is changed.
    pub fn shared_bytes(&self) -> u64 {
        let head = self.around.head.as_ref().map_or(0, |head| bytes(&head.weight));
        let layers = self.layers.iter().map(FrozenLayer::shared_bytes).sum::<u64>();
        bytes(&self.around.embed_VH) + bytes(&self.around.norm.weight) + head + layers
    }

    /// The hidden states `[N, H]` behind the last norm.
    pub(super) fn try_hidden(&self, tokens: &Tokens) -> Result<Matrix<D>, D::Err> {
        let mut h_BSH = self.try_embed(tokens)?;
        for index in 0..self.depth() {
            h_BSH = self.try_layer(index, h_BSH, tokens)?;
        }
        self.try_norm(h_BSH)
    }

    /// Number of its layers.
    pub(super) fn depth(&self) -> usize {
        self.layers.len()
    }

    /// What the first layer is given.
    pub(super) fn try_embed(&self, tokens: &Tokens) -> Result<Residual<usize, usize, H, D, NoneTape>, D::Err> {
        self.around.try_embed(tokens, NoneTape)
    }

    /// What layer `index` makes of its input, the states of these tokens.
    pub(super) fn try_layer(
        &self,
        index: usize,
        h_BSH: Residual<usize, usize, H, D, NoneTape>,
        tokens: &Tokens,
    ) -> Result<Residual<usize, usize, H, D, NoneTape>, D::Err> {
        self.layers[index]
            .widen()?
            .try_forward_saving(h_BSH, tokens.segments.as_ref(), self.around.recompute)
    }

    /// Hidden states behind the last norm, `[N, H]`, of those behind the last layer.
    pub(super) fn try_norm(&self, h_BSH: Residual<usize, usize, H, D, NoneTape>) -> Result<Matrix<D>, D::Err> {
        as_matrix(self.around.norm.try_forward(h_BSH)?)
    }

    /// The matrix that turns hidden states into logits.
    pub(super) fn head_weight(&self) -> Result<Matrix<D>, D::Err> {
        Ok(self.around.head_weight()?.0)
    }
}

/// A decoder layer.
struct FrozenLayer<H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> {
    input_norm: RmsNorm<H, f32, D>,
    query: Frozen<H, Q, D>,
    key: Frozen<H, K, D>,
    value: Frozen<H, K, D>,
    output: Frozen<Q, H, D>,
    head_norms: Option<HeadNorms<D>>,
    post_attention_norm: RmsNorm<H, f32, D>,
    gate: Frozen<H, F, D>,
    up: Frozen<H, F, D>,
    down: Frozen<F, H, D>,
    attention: AttentionSettings,
}

impl<H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> FrozenLayer<H, Q, K, F, D> {
    fn new(layer: &DecoderLayer<H, Q, K, F, D>) -> Result<Self, D::Err> {
        Ok(Self {
            input_norm: layer.input_norm.clone(),
            query: Frozen::new(&layer.query)?,
            key: Frozen::new(&layer.key)?,
            value: Frozen::new(&layer.value)?,
            output: Frozen::new(&layer.output)?,
            head_norms: layer.head_norms.clone(),
            post_attention_norm: layer.post_attention_norm.clone(),
            gate: Frozen::new(&layer.gate)?,
            up: Frozen::new(&layer.up)?,
            down: Frozen::new(&layer.down)?,
            attention: layer.attention.clone(),
        })
    }

    fn shared_bytes(&self) -> u64 {
        let attention = [
            self.query.shared_bytes(),
            self.key.shared_bytes(),
            self.value.shared_bytes(),
            self.output.shared_bytes(),
        ];
        let feed_forward = [
            self.gate.shared_bytes(),
            self.up.shared_bytes(),
            self.down.shared_bytes(),
        ];
        let of_heads = self.head_norms.iter().flat_map(|norms| [&norms.query, &norms.key]);
        let of_heads = of_heads.map(|norm| bytes(&norm.weight)).sum::<u64>();
        let norms = bytes(&self.input_norm.weight) + bytes(&self.post_attention_norm.weight) + of_heads;
        attention.iter().sum::<u64>() + feed_forward.iter().sum::<u64>() + norms
    }

    fn widen(&self) -> Result<DecoderLayer<H, Q, K, F, D>, D::Err> {
        Ok(DecoderLayer {
            input_norm: self.input_norm.clone(),
            query: self.query.widen()?,
            key: self.key.widen()?,
            value: self.value.widen()?,
            output: self.output.widen()?,
            head_norms: self.head_norms.clone(),
            post_attention_norm: self.post_attention_norm.clone(),
            gate: self.gate.widen()?,
            up: self.up.widen()?,
            down: self.down.widen()?,
            attention: self.attention.clone(),
        })
    }
}

/// A linear layer.
struct Frozen<I: Dim, O: Dim, D: EdkmDevice> {
    weight: Weight<(O, I), D>,
    bias: Option<Tensor<(O,), f32, D>>,
    clustering: Option<Clustering>,
}

enum Weight<S: Shape, D: EdkmDevice> {
    Half(HalfTensor<S, D>),
    Full(Tensor<S, f32, D>),
}

impl<I: Dim, O: Dim, D: EdkmDevice> Frozen<I, O, D> {
    fn new(projection: &Projection<I, O, D>) -> Result<Self, D::Err> {
        Ok(Self {
            weight: match HalfTensor::of(&projection.weight)? {
                Some(half) => Weight::Half(half),
                None => Weight::Full(projection.weight.clone()),
            },
            bias: projection.bias.clone(),
            clustering: projection.clustering.clone(),
        })
    }

    fn shared_bytes(&self) -> u64 {
        let weight = match &self.weight {
            Weight::Half(_) => 0,
            Weight::Full(weight) => bytes(weight),
        };
        weight + self.bias.as_ref().map_or(0, bytes)
    }

    fn widen(&self) -> Result<Projection<I, O, D>, D::Err> {
        Ok(Projection {
            weight: match &self.weight {
                Weight::Half(half) => half.widen()?,
                Weight::Full(weight) => weight.clone(),
            },
            bias: self.bias.clone(),
            clustering: self.clustering.clone(),
        })
    }
}

/// Bytes of a tensor.
fn bytes<S: Shape, D: EdkmDevice>(tensor: &Tensor<S, f32, D>) -> u64 {
    (tensor.shape().num_elements() * size_of::<f32>()) as u64
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use edkm_testkit::{assert_bitwise_equal, random};
    use half::{bf16, f16};

    use super::*;
    use crate::model::DynamicLlama;
    use crate::names::Parameter;

    /// Three layers: with numbers of bf16, of f16, and others.
    fn model() -> DynamicLlama<Cpu> {
        DynamicLlama::from_weights(&config(), &Cpu::default(), &mut weights()).unwrap()
    }

    fn config() -> LlamaConfig {
        let json = r#"{"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "attention_bias": true}"#;
        LlamaConfig::from_json(Path::new("config.json"), json).unwrap()
    }

    fn weights() -> impl FnMut(&Parameter) -> Result<Vec<f32>, LlamaError> {
        let mut seed = 0;
        move |parameter: &Parameter| {
            seed += 1;
            let numbers = random(seed, parameter.shape.iter().product()).into_iter();
            Ok(match parameter.layer {
                Some(0) => numbers.map(|x| bf16::from_f32(x).to_f32()).collect(),
                Some(1) => numbers.map(|x| f16::from_f32(x).to_f32()).collect(),
                _ => numbers.collect(),
            })
        }
    }

    #[test]
    fn a_teacher_has_the_outputs_of_its_model() {
        let model = model();
        let read = Teacher::from_weights(&config(), &Cpu::default(), &mut weights()).unwrap();
        for teacher in [Teacher::new(&model).unwrap(), read] {
            has_outputs_of(&teacher, &model);
        }
    }

    fn has_outputs_of(teacher: &DynamicTeacher<Cpu>, model: &DynamicLlama<Cpu>) {
        let tokens = Tokens {
            ids: (0..14).collect(),
            batch: 2,
            segments: None,
        };
        let want = model.try_hidden(&tokens, NoneTape).unwrap();
        let got = teacher.try_hidden(&tokens).unwrap();
        assert_bitwise_equal("hidden states", &got.as_vec(), &want.as_vec());
    }

    #[test]
    fn matrices_that_lose_nothing_are_kept_in_16_bits() {
        let teacher = Teacher::new(&model()).unwrap();
        for (index, layer) in teacher.layers.iter().enumerate() {
            let halves = [
                matches!(layer.query.weight, Weight::Half(_)),
                matches!(layer.key.weight, Weight::Half(_)),
                matches!(layer.value.weight, Weight::Half(_)),
                matches!(layer.output.weight, Weight::Half(_)),
                matches!(layer.gate.weight, Weight::Half(_)),
                matches!(layer.up.weight, Weight::Half(_)),
                matches!(layer.down.weight, Weight::Half(_)),
            ];
            assert_eq!(halves, [index < 2; 7], "layer {index}");
        }
        // embedding, head, the last norm; norms and biases of q, k, v and o; the matrices of a layer
        let around = 2 * 50 * 16 + 16;
        let (vectors, matrices) = (2 * 16 + 16 + 2 * 8 + 16, 2 * 16 * 16 + 2 * 8 * 16 + 3 * 24 * 16);
        assert_eq!(teacher.shared_bytes(), 4 * (around + 3 * vectors + matrices));
    }
}
