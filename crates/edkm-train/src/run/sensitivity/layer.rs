//! Each clustered layer at each of its widths, by itself.

use dfdx::prelude::*;
use dfdx_edkm::{ChannelScale, EdkmDevice, ParameterKind, ParameterVisitor};
use edkm_cluster::{Bits, MatrixShape, Spec};
use edkm_llama::LlamaError;
use edkm_palette::{PaletteDType, PalettizedMatrix};

use super::widths::{Candidate, Width, SMALLEST, WIDTHS};
use crate::compress::{estimated_loss, k_means, Importances};
use crate::run::{ClusterSettings, OnProgress};
use crate::TrainError;

/// A layer that is measured.
pub(super) struct Layer {
    pub(super) candidate: Candidate,
    weight: Vec<f32>,
    importance: Vec<f32>,
    shape: MatrixShape,
    spec: Spec,
    channel_scale: ChannelScale,
    dtype: PaletteDType,
}

impl Layer {
    /// The weight by k-means weighted with its importances.
    pub(super) fn palettized(&self, bits: Bits) -> Result<PalettizedMatrix, LlamaError> {
        let spec = Spec { bits, ..self.spec };
        k_means(
            &self.candidate.name,
            &self.weight,
            Some(&self.importance),
            self.shape,
            &spec,
            self.channel_scale,
            self.dtype,
        )
    }
}

/// Finds the layers of a model, with their widths.
pub(super) struct MeasureWidths<'a> {
    pub(super) clustering: &'a ClusterSettings,
    /// What is found of a layer is taken from them.
    pub(super) importances: Importances,
    pub(super) layers: usize,
    pub(super) done: usize,
    pub(super) progress: &'a mut OnProgress<'a>,
    pub(super) found: Vec<Layer>,
}

impl<D: EdkmDevice> ParameterVisitor<D> for MeasureWidths<'_> {
    type Error = TrainError;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), TrainError> {
        self.done += 1;
        let sizes = parameter.shape().concrete();
        if let (Some(clustering), &[rows, cols]) = (kind.clustering(), sizes.as_ref()) {
            let spec = clustering.spec();
            let fixed = matches!(kind, ParameterKind::Embedding { .. }) || self.clustering.rules.sets_bits_of(name);
            let widths = match fixed {
                true => vec![spec.bits.get()],
                false => std::iter::once(SMALLEST).chain(WIDTHS).collect(),
            };
            let mut layer = Layer {
                candidate: Candidate {
                    name: name.to_owned(),
                    weights: rows * cols,
                    widths: Vec::new(),
                },
                weight: parameter.as_vec(),
                importance: self.importances.remove(name).unwrap_or_else(|| vec![1.0; rows * cols]),
                shape: MatrixShape { rows, cols },
                spec,
                channel_scale: clustering.channel_scale(),
                dtype: self.clustering.palette_dtype_of(name),
            };
            for bits in widths {
                let bits = Bits::new(bits).map_err(|source| LlamaError::Cluster {
                    name: name.to_owned(),
                    source,
                })?;
                let matrix = layer.palettized(bits)?;
                layer.candidate.widths.push(Width {
                    bits,
                    bytes: matrix.size_bytes(),
                    loss: estimated_loss(&layer.importance, &layer.weight, &matrix.dequantize()),
                });
            }
            self.found.push(layer);
        }
        (self.progress)(self.done as f64 / self.layers.max(1) as f64)
    }
}
