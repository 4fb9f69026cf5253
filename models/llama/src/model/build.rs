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
        let mut build = Build::new(config, device, weights)?;
        let embed_VH = build.tensor(Kind::EmbedTokens)?;
        let layers = (0..config.num_hidden_layers).map(|index| build.layer(index));
        let layers = layers.collect::<Result<_, _>>()?;
        build.around(embed_VH, layers)
    }
}

/// What the making of each part needs.
pub(super) struct Build<'a, D, W> {
    config: &'a LlamaConfig,
    device: &'a D,
    weights: &'a mut W,
    rotary: Arc<Table>,
    layer: usize,
}

impl<'a, D: EdkmDevice, W: WeightSource> Build<'a, D, W> {
    pub(super) fn new(config: &'a LlamaConfig, device: &'a D, weights: &'a mut W) -> Result<Self, LlamaError> {
        config.validate(Path::new("the configuration"))?;
        let positions = config.context_limit();
        Ok(Self {
            config,
            device,
            weights,
            rotary: Arc::new(Table::new(&inverse_frequencies(config), positions)),
            layer: 0,
        })
    }

    /// A decoder layer.
    pub(super) fn layer<H: Dim, Q: Dim, K: Dim, F: Dim>(
        &mut self,
        index: usize,
    ) -> Result<DecoderLayer<H, Q, K, F, D>, LlamaError> {
        self.layer = index;
        Ok(DecoderLayer {
            input_norm: self.norm(Kind::InputNorm)?,
            query: self.projection(Kind::Query, Kind::QueryBias)?,
            key: self.projection(Kind::Key, Kind::KeyBias)?,
            value: self.projection(Kind::Value, Kind::ValueBias)?,
            output: self.projection(Kind::Output, Kind::OutputBias)?,
            head_norms: match self.config.query_key_norm {
                true => Some(HeadNorms {
                    query: self.norm(Kind::QueryNorm)?,
                    key: self.norm(Kind::KeyNorm)?,
                }),
                false => None,
            },
            post_attention_norm: self.norm(Kind::PostAttentionNorm)?,
            gate: self.projection(Kind::Gate, Kind::GateBias)?,
            up: self.projection(Kind::Up, Kind::UpBias)?,
            down: self.projection(Kind::Down, Kind::DownBias)?,
            attention: AttentionSettings {
                heads: self.config.num_attention_heads,
                kv_heads: self.config.num_key_value_heads,
                head_dim: self.config.head_dim,
                rotary: self.rotary.clone(),
            },
        })
    }

    /// The model of these layers: what lies behind them is made last.
    pub(super) fn around<V: Dim, H: Dim, Q: Dim, K: Dim, F: Dim>(
        &mut self,
        embed_VH: Tensor<(V, H), f32, D>,
        layers: Vec<DecoderLayer<H, Q, K, F, D>>,
    ) -> Result<Llama<V, H, Q, K, F, D>, LlamaError> {
        let norm = self.norm(Kind::FinalNorm)?;
        let head = match self.config.tie_word_embeddings {
            true => None,
            false => Some(Projection {
                weight: self.tensor(Kind::Head)?,
                bias: None,
                clustering: None,
            }),
        };
        Ok(Llama {
            config: self.config.clone(),
            embed_VH,
            embed_clustering: None,
            layers,
            norm,
            head,
            recompute: Recompute::default(),
        })
    }

    pub(super) fn tensor<S: Shape>(&mut self, kind: Kind) -> Result<Tensor<S, f32, D>, LlamaError> {
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
