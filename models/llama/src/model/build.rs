//! Making a model from a configuration and a source of weights.

use std::path::Path;
use std::sync::Arc;

use dfdx::prelude::*;
use dfdx_edkm::nn::RmsNorm;
use dfdx_edkm::EdkmDevice;
use edkm_kernels::rotary::Table;

use super::{AttentionSettings, DecoderLayer, HeadNorms, Llama, Projection, Recompute};
use crate::config::LlamaConfig;
use crate::names::{Kind, Parameter};
use crate::rope::inverse_frequencies;
use crate::LlamaError;

/// Where the weights of a new model come from: a checkpoint, or random numbers.
pub trait WeightSource {
    /// The numbers of one parameter, row-major.
    ///
    /// # Errors
    /// A parameter that is missing or has another shape.
    fn weight(&mut self, parameter: &Parameter) -> Result<Vec<f32>, LlamaError>;
}

impl<F: FnMut(&Parameter) -> Result<Vec<f32>, LlamaError>> WeightSource for F {
    fn weight(&mut self, parameter: &Parameter) -> Result<Vec<f32>, LlamaError> {
        self(parameter)
    }
}

impl<V: Dim, H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> Llama<V, H, Q, K, F, D> {
    /// Builds the model that `config` describes, unclustered.
    ///
    /// # Errors
    /// A configuration that [is none](LlamaConfig::validate), or does not fit const dimensions; the errors of `weights`; the device's.
    pub fn from_weights(config: &LlamaConfig, device: &D, weights: &mut impl WeightSource) -> Result<Self, LlamaError> {
        config.validate(Path::new("the configuration"))?;
        let mut build = Build {
            config,
            device,
            weights,
            layer: 0,
        };
        let positions = config.max_position_embeddings;
        let rotary = Arc::new(Table::new(&inverse_frequencies(config), positions));
        let embed_VH = build.tensor(Kind::EmbedTokens)?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            build.layer = index;
            layers.push(DecoderLayer {
                input_norm: build.norm(Kind::InputNorm)?,
                query: build.projection(Kind::Query, Kind::QueryBias)?,
                key: build.projection(Kind::Key, Kind::KeyBias)?,
                value: build.projection(Kind::Value, Kind::ValueBias)?,
                output: build.projection(Kind::Output, Kind::OutputBias)?,
                head_norms: match config.query_key_norm {
                    true => Some(HeadNorms {
                        query: build.norm(Kind::QueryNorm)?,
                        key: build.norm(Kind::KeyNorm)?,
                    }),
                    false => None,
                },
                post_attention_norm: build.norm(Kind::PostAttentionNorm)?,
                gate: build.projection(Kind::Gate, Kind::GateBias)?,
                up: build.projection(Kind::Up, Kind::UpBias)?,
                down: build.projection(Kind::Down, Kind::DownBias)?,
                attention: AttentionSettings {
                    heads: config.num_attention_heads,
                    kv_heads: config.num_key_value_heads,
                    head_dim: config.head_dim,
                    rotary: rotary.clone(),
                },
            });
        }
        let norm = build.norm(Kind::FinalNorm)?;
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(Projection {
                weight: build.tensor(Kind::Head)?,
                bias: None,
                clustering: None,
            }),
        };
        Ok(Self {
            config: config.clone(),
            embed_VH,
            embed_clustering: None,
            layers,
            norm,
            head,
            recompute: Recompute::default(),
        })
    }
}

/// What the making of each part needs.
struct Build<'a, D, W> {
    config: &'a LlamaConfig,
    device: &'a D,
    weights: &'a mut W,
    layer: usize,
}

impl<D: EdkmDevice, W: WeightSource> Build<'_, D, W> {
    fn tensor<S: Shape>(&mut self, kind: Kind) -> Result<Tensor<S, f32, D>, LlamaError> {
        match self.optional(kind)? {
            Some(tensor) => Ok(tensor),
            None => Err(LlamaError::ConstDimension {
                name: kind.name(self.layer),
                expected: "a parameter".to_owned(),
                got: "none by this configuration".to_owned(),
            }),
        }
    }

    /// The parameter, if the configuration has it.
    fn optional<S: Shape>(&mut self, kind: Kind) -> Result<Option<Tensor<S, f32, D>>, LlamaError> {
        let Some(parameter) = kind.parameter(self.config, self.layer) else {
            return Ok(None);
        };
        let mismatch = || LlamaError::ConstDimension {
            name: parameter.name.clone(),
            expected: std::any::type_name::<S>().to_owned(),
            got: format!("{:?}", parameter.shape),
        };
        let mut concrete = S::Concrete::default();
        if parameter.shape.len() != S::NUM_DIMS {
            return Err(mismatch());
        }
        for (axis, &size) in parameter.shape.iter().enumerate() {
            concrete[axis] = size;
        }
        let shape = S::from_concrete(&concrete).ok_or_else(mismatch)?;
        let numbers = self.weights.weight(&parameter)?;
        if numbers.len() != shape.num_elements() {
            return Err(LlamaError::WrongLength {
                expected: size_of::<f32>() as u64 * shape.num_elements() as u64,
                got: size_of_val(numbers.as_slice()) as u64,
                name: parameter.name,
            });
        }
        match self.device.tensor_from_host(numbers, shape) {
            Ok(tensor) => Ok(Some(tensor)),
            Err(error) => Err(LlamaError::Device {
                name: parameter.name.clone(),
                reason: error.to_string(),
            }),
        }
    }

    fn norm<H: Dim>(&mut self, kind: Kind) -> Result<RmsNorm<H, f32, D>, LlamaError> {
        Ok(RmsNorm {
            weight: self.tensor(kind)?,
            eps: self.config.rms_norm_eps,
        })
    }

    fn projection<I: Dim, O: Dim>(&mut self, weight: Kind, bias: Kind) -> Result<Projection<I, O, D>, LlamaError> {
        Ok(Projection {
            weight: self.tensor(weight)?,
            bias: self.optional(bias)?,
            clustering: None,
        })
    }
}
