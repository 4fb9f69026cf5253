//! A model's weights in a GPU's memory.

use edkm_cuda::dense::{Dense, Kind as NumberKind};
use edkm_cuda::driver::{Gpu, GpuError};
use edkm_cuda::elementwise::add_to_rows;
use edkm_cuda::matrix::{Matrix, Unpacked};
use edkm_cuda::packed::Packed;
use edkm_cuda::{Array, Slice, SliceMut};

use super::super::{matrix, model, problem::mebibytes, InferenceModel};
use super::device::Device;
use crate::{checkpoint::FloatDtype, names::Kind, LlamaError};

/// Tokens that run together.
pub(super) struct Batches {
    /// Of a prompt.
    pub(super) prompt: usize,
    /// Of sequences. Matrices are unpacked once a pass, which moves 8 bytes a weight: with so many tokens that is little beside their products, on tensor
    /// cores too.
    pub(super) one_pass: usize,
}

impl Default for Batches {
    fn default() -> Self {
        Self {
            prompt: 512,
            one_pass: 2048,
        }
    }
}

/// All weights, as they are stored.
pub(in super::super) struct Weights {
    pub(super) device: Device,
    pub(super) batches: Batches,
    pub(super) embedding: Matrix<Gpu>,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Array<Gpu, f32>,
    /// `None` if the embedding is used.
    head: Option<Matrix<Gpu>>,
}

/// A decoder layer.
pub(super) struct Layer {
    pub(super) input_norm: Array<Gpu, f32>,
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) output: Linear,
    pub(super) head_norms: Option<HeadNorms>,
    pub(super) post_attention_norm: Array<Gpu, f32>,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

/// Norms of the heads of queries and keys, `[head_dim]` each.
pub(super) struct HeadNorms {
    pub(super) query: Array<Gpu, f32>,
    pub(super) key: Array<Gpu, f32>,
}

/// y = x W^T + b.
pub(super) struct Linear {
    weight: Matrix<Gpu>,
    bias: Option<Array<Gpu, f32>>,
}

impl Linear {
    /// `x [tokens, inputs]`, `y [tokens, outputs]`.
    pub(super) fn apply(
        &self,
        gpu: &Gpu,
        x: Slice<'_, f32>,
        mut y: SliceMut<'_, f32>,
        unpacked: &mut Unpacked<Gpu>,
    ) -> Result<(), GpuError> {
        self.weight.multiply(gpu, x, y.reborrow(), unpacked)?;
        match &self.bias {
            Some(bias) => add_to_rows(gpu, y, bias.as_slice()),
            None => Ok(()),
        }
    }
}

impl Weights {
    /// Copies the weights of a model.
    pub(super) fn upload(device: Device, model: &InferenceModel) -> Result<Self, LlamaError> {
        let upload = Upload {
            device: &device,
            total: model.weight_bytes().total(),
        };
        let embedding = upload.matrix(Kind::EmbedTokens, 0, &model.shared.embedding)?;
        let layers = model.shared.layers.iter().enumerate();
        let layers = layers
            .map(|(i, layer)| upload.layer(i, layer))
            .collect::<Result<_, _>>()?;
        let norm = upload.vector(Kind::FinalNorm, 0, &model.shared.norm)?;
        let head = match model.untied_head() {
            Some(head) => Some(upload.matrix(Kind::Head, 0, head)?),
            None => None,
        };
        Ok(Self {
            device,
            batches: Batches::default(),
            embedding,
            layers,
            norm,
            head,
        })
    }

    /// The matrix that turns hidden states into logits, `[vocabulary, hidden]`.
    pub(super) fn head(&self) -> &Matrix<Gpu> {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Where these matrices are unpacked.
    pub(super) fn unpacked(&self) -> Unpacked<Gpu> {
        let linears = self.layers.iter().flat_map(|layer| {
            let Layer {
                query,
                key,
                value,
                output,
                gate,
                up,
                down,
                ..
            } = layer;
            [query, key, value, output, gate, up, down].map(|linear| &linear.weight)
        });
        Unpacked::new(
            linears
                .chain([self.head()])
                .map(|matrix| [matrix.rows(), matrix.cols()]),
        )
    }
}

struct Upload<'d> {
    device: &'d Device,
    /// Bytes of all weights, for messages.
    total: usize,
}

impl Upload<'_> {
    fn layer(&self, i: usize, layer: &model::Layer) -> Result<Layer, LlamaError> {
        let linear = |weight: Kind, bias: Kind, linear: &model::Linear| {
            Ok(Linear {
                weight: self.matrix(weight, i, &linear.weight)?,
                bias: match &linear.bias {
                    Some(numbers) => Some(self.vector(bias, i, numbers)?),
                    None => None,
                },
            })
        };
        Ok(Layer {
            input_norm: self.vector(Kind::InputNorm, i, &layer.input_norm)?,
            query: linear(Kind::Query, Kind::QueryBias, &layer.query)?,
            key: linear(Kind::Key, Kind::KeyBias, &layer.key)?,
            value: linear(Kind::Value, Kind::ValueBias, &layer.value)?,
            output: linear(Kind::Output, Kind::OutputBias, &layer.output)?,
            head_norms: match &layer.head_norms {
                Some(norms) => Some(HeadNorms {
                    query: self.vector(Kind::QueryNorm, i, &norms.query)?,
                    key: self.vector(Kind::KeyNorm, i, &norms.key)?,
                }),
                None => None,
            },
            post_attention_norm: self.vector(Kind::PostAttentionNorm, i, &layer.post_attention_norm)?,
            gate: linear(Kind::Gate, Kind::GateBias, &layer.gate)?,
            up: linear(Kind::Up, Kind::UpBias, &layer.up)?,
            down: linear(Kind::Down, Kind::DownBias, &layer.down)?,
        })
    }

    fn matrix(&self, kind: Kind, layer: usize, matrix: &matrix::Matrix) -> Result<Matrix<Gpu>, LlamaError> {
        let gpu = self.device.gpu();
        let uploaded = match matrix {
            matrix::Matrix::Packed(packed) => Packed::new(gpu, packed).map(Matrix::Packed),
            matrix::Matrix::Dense(dense) => {
                let (bytes, dtype) = dense.stored();
                let kind = match dtype {
                    FloatDtype::F32 => NumberKind::F32,
                    FloatDtype::F16 => NumberKind::F16,
                    FloatDtype::Bf16 => NumberKind::Bf16,
                };
                Dense::new(gpu, [dense.rows(), dense.cols()], kind, bytes).map(Matrix::Dense)
            }
        };
        uploaded.map_err(|error| self.error(error, kind, layer, matrix.size_bytes()))
    }

    fn vector(&self, kind: Kind, layer: usize, numbers: &[f32]) -> Result<Array<Gpu, f32>, LlamaError> {
        Array::from_host(self.device.gpu(), numbers).map_err(|error| self.error(error, kind, layer, numbers.len() * 4))
    }

    fn error(&self, error: GpuError, kind: Kind, layer: usize, bytes: usize) -> LlamaError {
        let what = format!(
            "{} (all weights are {})",
            kind.name(layer),
            mebibytes(self.total as u64)
        );
        self.device.error(error, what, bytes)
    }
}
