//! Compression without training: what fine-tuning is compared with.

use std::num::NonZeroUsize;

use dfdx::prelude::*;
use dfdx_edkm::{EdkmDevice, ParameterKind, ParameterVisitor, Parameters};
use edkm_cluster::{Grouping, MatrixShape, Prepared, Spec};
use edkm_llama::model::{palette_spec, DynamicLlama, PalettizedParameter};
use edkm_llama::LlamaError;
use edkm_palette::{PaletteDType, PalettizedMatrix};
use rayon::prelude::*;

use crate::TrainError;

/// How palettes are found from weights alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Rounding to the nearest of 2^bits evenly spaced levels between the smallest and the largest weight of the group.
    RoundToNearest,
    /// The optimal palette in the squared error: exact k-means in one dimension.
    KMeans,
}

/// Palettizes every clustered parameter of `model` by `method`, with the bits and groups of its clustering. The weights stay as they are.
///
/// # Errors
/// A weight that is not finite, named by parameter and index.
pub fn compress<D: EdkmDevice>(
    model: &mut DynamicLlama<D>,
    method: Method,
    dtype: PaletteDType,
) -> Result<Vec<PalettizedParameter>, TrainError> {
    let mut visitor = Compress {
        method,
        dtype,
        found: Vec::new(),
    };
    model.visit_parameters("", &mut visitor)?;
    Ok(visitor.found)
}

struct Compress {
    method: Method,
    dtype: PaletteDType,
    found: Vec<PalettizedParameter>,
}

impl<D: EdkmDevice> ParameterVisitor<D> for Compress {
    type Error = LlamaError;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), LlamaError> {
        let sizes = parameter.shape().concrete();
        let (Some(clustering), &[rows, cols]) = (kind.clustering(), sizes.as_ref()) else {
            return Ok(());
        };
        let matrix = compress_weight(
            name,
            &parameter.as_vec(),
            MatrixShape { rows, cols },
            &clustering.spec(),
            self,
        )?;
        self.found.push(PalettizedParameter {
            name: name.to_owned(),
            matrix,
        });
        Ok(())
    }
}

fn compress_weight(
    name: &str,
    weight: &[f32],
    shape: MatrixShape,
    spec: &Spec,
    how: &Compress,
) -> Result<PalettizedMatrix, LlamaError> {
    let cluster_error = |source| LlamaError::Cluster {
        name: name.to_owned(),
        source,
    };
    let prepared = Prepared::new(weight, shape, spec).map_err(cluster_error)?;
    let (palettes, indices) = match how.method {
        Method::KMeans => {
            let centroids = prepared.initial().map_err(cluster_error)?;
            let indices = prepared.assign(&centroids).map_err(cluster_error)?;
            (centroids.into_vec(), indices)
        }
        Method::RoundToNearest => round_to_nearest(weight, shape, spec),
    };
    PalettizedMatrix::pack(
        shape.rows,
        shape.cols,
        palette_spec(spec, how.dtype),
        &palettes,
        &indices,
        None,
    )
    .map_err(|source| LlamaError::Palettize {
        name: name.to_owned(),
        source,
    })
}

/// Evenly spaced palettes `[groups, 2^bits]` and the index of each weight. Finite weights.
fn round_to_nearest(weight: &[f32], shape: MatrixShape, spec: &Spec) -> (Vec<f32>, Vec<u8>) {
    let rows = match spec.grouping {
        Grouping::PerTensor => NonZeroUsize::new(shape.rows).unwrap_or(NonZeroUsize::MIN),
        Grouping::PerChannels(channels) => channels,
    };
    let last = (spec.bits.clusters() - 1) as f32;
    let groups: Vec<(Vec<f32>, Vec<u8>)> = weight
        .par_chunks(rows.get().saturating_mul(shape.cols).max(1))
        .map(|group| {
            let low = group.iter().copied().fold(f32::INFINITY, f32::min);
            let high = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // halves first: the range of two finite numbers may overflow
            let gap = (high / last - low / last).max(f32::MIN_POSITIVE);
            let palette = (0..=spec.bits.clusters() - 1)
                .map(|level| low + gap * level as f32)
                .collect();
            let indices = group
                .iter()
                .map(|&w| ((w - low) / gap).round().clamp(0.0, last) as u8)
                .collect();
            (palette, indices)
        })
        .collect();
    let (palettes, indices): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
    (palettes.concat(), indices.concat())
}

/// A copy of `model` that computes with the palettized weights, unclustered: what the compressed model will say.
///
/// # Errors
/// The device's, when it cannot hold the weights.
pub fn with_palettes<D: EdkmDevice>(
    model: &DynamicLlama<D>,
    palettes: &[PalettizedParameter],
) -> Result<DynamicLlama<D>, TrainError> {
    struct Replace<'a>(&'a [PalettizedParameter]);
    impl<D: EdkmDevice> ParameterVisitor<D> for Replace<'_> {
        type Error = TrainError;
        fn visit<S: Shape>(
            &mut self,
            name: &str,
            _: ParameterKind<'_>,
            parameter: &mut Tensor<S, f32, D>,
        ) -> Result<(), TrainError> {
            let Some(palettized) = self.0.iter().find(|p| p.name == name) else {
                return Ok(());
            };
            let (device, shape) = (parameter.device().clone(), *parameter.shape());
            *parameter = device
                .try_tensor_from_vec(palettized.matrix.dequantize(), shape)
                .map_err(|error| TrainError::Device {
                    reason: format!("{name}: {error}"),
                })?;
            Ok(())
        }
    }
    let mut copy = model.clone();
    copy.visit_parameters("", &mut Replace(palettes))?;
    copy.set_clustering(&|_: &edkm_llama::names::Parameter| None);
    Ok(copy)
}
