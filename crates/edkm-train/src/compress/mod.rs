//! Compression without training: what fine-tuning is compared with.

mod calibration;
pub mod gptq;
mod importance;
mod round_to_nearest;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use dfdx::prelude::*;
use dfdx_edkm::channel_scale::divided;
use dfdx_edkm::{
    pack, visit_clustered, ChannelScale, ClusteredMatrix, Clustering, EdkmDevice, ParameterKind, ParameterVisitor,
    Parameters,
};
use edkm_cluster::{MatrixShape, Prepared, Spec};
use edkm_llama::checkpoint::FloatDtype;
use edkm_llama::model::{palette_spec, DynamicLlama, PalettizedParameter};
use edkm_llama::LlamaError;
use edkm_palette::{PaletteDType, PalettizedMatrix};

pub use calibration::Calibration;
use gptq::Levels;
pub use importance::{estimated_loss, importance, Importances};
use round_to_nearest::{round_to_nearest, to_nearest_entries};

use crate::run::{check_positions, OnProgress};
use crate::TrainError;

/// Numbers that one task goes through where each stands for itself: where handing work to another thread pays.
const PIECE: usize = 1 << 16;

/// How palettes are found without training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Rounding to the nearest of 2^bits evenly spaced levels between the smallest and the largest weight of the group.
    RoundToNearest,
    /// The optimal palette in the squared error: exact k-means in one dimension.
    KMeans,
    /// The same with each squared error weighted by the squared gradient of the weight (SqueezeLLM, arXiv 2306.07629).
    WeightedKMeans,
    /// GPTQ (arXiv 2210.17323) layer by layer. Embeddings, which have no inputs, get the k-means.
    Gptq(Levels),
}

impl Method {
    /// The name in commands and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundToNearest => "rtn",
            Self::KMeans => "kmeans",
            Self::WeightedKMeans => "weighted-kmeans",
            Self::Gptq(Levels::KMeans) => "gptq",
            Self::Gptq(Levels::EvenlySpaced) => "gptq-even",
        }
    }

    /// Whether palettes are 2^bits evenly spaced numbers, whatever the weights are.
    pub fn has_even_levels(self) -> bool {
        matches!(self, Self::RoundToNearest | Self::Gptq(Levels::EvenlySpaced))
    }

    /// Whether it looks at text.
    pub fn needs_calibration(self) -> bool {
        matches!(self, Self::WeightedKMeans | Self::Gptq(_))
    }
}

/// Palettizes every clustered parameter of `model` by `method`, with the bits and groups of its clustering; `dtype` gives the
/// palette type by name. The weights stay as they are.
/// `progress` is told the share that is done.
///
/// # Errors
/// A weight that is not finite, named by parameter and index; no calibration text for a method that needs one, or one too short, or of more tokens than
/// the model has positions; settings
/// that the method does not know; what `progress` gives.
pub fn compress<D: EdkmDevice>(
    model: &mut DynamicLlama<D>,
    method: Method,
    calibration: Option<&Calibration<'_>>,
    dtype: &dyn Fn(&str) -> PaletteDType,
    progress: &mut OnProgress<'_>,
) -> Result<Vec<PalettizedParameter>, TrainError> {
    let text = || calibration.ok_or(TrainError::NoCalibration { method: method.name() });
    if let Some(calibration) = calibration.filter(|_| method.needs_calibration()) {
        check_positions(calibration.sequence, &model.config)?;
    }
    // the share of the work that palettes are which are found matrix by matrix, behind that for importances
    let (before, share) = match method {
        Method::WeightedKMeans => (0.5, 0.5),
        Method::Gptq(_) => (0.0, 0.0),
        Method::RoundToNearest | Method::KMeans => (0.0, 1.0),
    };
    let mut visitor = Compress {
        palette: Palette::Nearest,
        which: Which::All,
        dtype,
        found: Vec::new(),
    };
    match method {
        Method::RoundToNearest => {}
        Method::KMeans => visitor.palette = Palette::KMeans,
        Method::WeightedKMeans => {
            let importances = importance(model, text()?, &mut |done| progress(before * done))?;
            visitor.palette = Palette::Weighted(importances);
        }
        Method::Gptq(_) => {
            text()?;
            visitor.palette = Palette::KMeans;
            visitor.which = Which::Embeddings;
        }
    }
    let mut count = 0.0;
    visit_clustered(model, |_| {
        count += 1.0;
        Ok::<(), TrainError>(())
    })?;
    let mut done = 0.0;
    visit_clustered(model, |parameter| {
        visitor.take(&parameter)?;
        done += 1.0;
        progress(before + share * done / count)
    })?;
    match method {
        Method::Gptq(levels) => gptq::gptq(model, visitor.found, text()?, levels, dtype, progress),
        _ => Ok(visitor.found),
    }
}

/// How the palettes of one parameter are found.
enum Palette {
    Nearest,
    KMeans,
    Weighted(Importances),
}

/// Which of the clustered parameters.
#[derive(PartialEq)]
enum Which {
    All,
    Embeddings,
}

struct Compress<'a> {
    palette: Palette,
    which: Which,
    dtype: &'a dyn Fn(&str) -> PaletteDType,
    found: Vec<PalettizedParameter>,
}

impl Compress<'_> {
    fn take(&mut self, parameter: &ClusteredMatrix<'_>) -> Result<(), LlamaError> {
        if self.which == Which::Embeddings && !matches!(parameter.kind, ParameterKind::Embedding { .. }) {
            return Ok(());
        }
        let (name, shape) = (parameter.name, parameter.shape);
        let matrix = self.matrix(name, &parameter.weight(), shape, parameter.clustering)?;
        self.found.push(PalettizedParameter {
            name: name.to_owned(),
            matrix,
        });
        Ok(())
    }

    fn matrix(
        &self,
        name: &str,
        weight: &[f32],
        shape: MatrixShape,
        clustering: &Clustering,
    ) -> Result<PalettizedMatrix, LlamaError> {
        let dtype = (self.dtype)(name);
        let (spec, scale) = (clustering.spec(), clustering.channel_scale());
        let importance = match &self.palette {
            Palette::KMeans => None,
            Palette::Weighted(importances) => importances.get(name).map(Vec::as_slice),
            Palette::Nearest => return nearest(name, weight, shape, &spec, scale, dtype),
        };
        k_means(name, weight, importance, shape, &spec, scale, dtype)
    }
}

fn cluster_error(name: &str) -> impl Fn(edkm_cluster::ClusterError) -> LlamaError + '_ {
    move |source| LlamaError::Cluster {
        name: name.to_owned(),
        source,
    }
}

/// Evenly spaced palettes.
fn nearest(
    name: &str,
    weight: &[f32],
    shape: MatrixShape,
    spec: &Spec,
    channel_scale: ChannelScale,
    dtype: PaletteDType,
) -> Result<PalettizedMatrix, LlamaError> {
    if spec.dim() > 1 {
        return Err(cluster_error(name)(edkm_cluster::ClusterError::Setting {
            setting: "the vector length of evenly spaced levels",
            value: spec.dim() as f64,
            needed: "1",
        }));
    }
    let row_scales = channel_scale.of(weight, shape);
    let row_scales = row_scales.as_deref();
    let weight = &divided(weight, row_scales)[..];
    // refuses weights that are not finite
    Prepared::new(weight, shape, spec).map_err(cluster_error(name))?;
    let (palettes, mut indices) = round_to_nearest(weight, shape, spec);
    let group = spec.grouping.rows_per_palette(shape).saturating_mul(shape.cols).max(1);
    let spec = palette_spec(spec, dtype);
    let in_file = spec
        .rounded(&palettes)
        .map_err(|error| LlamaError::of_palettes(name, error.into()))?;
    if in_file != palettes {
        to_nearest_entries(weight, group, &in_file, spec.clusters(), &mut indices);
    }
    PalettizedMatrix::pack(shape.rows, shape.cols, spec, &palettes, &indices, row_scales)
        .map_err(|error| LlamaError::of_palettes(name, error.into()))
}

/// K-means palettes, each weight counted by its importance.
pub(crate) fn k_means(
    name: &str,
    weight: &[f32],
    importance: Option<&[f32]>,
    shape: MatrixShape,
    spec: &Spec,
    channel_scale: ChannelScale,
    dtype: PaletteDType,
) -> Result<PalettizedMatrix, LlamaError> {
    let row_scales = channel_scale.of(weight, shape);
    let row_scales = row_scales.as_deref();
    let weight = &divided(weight, row_scales)[..];
    let prepared = Prepared::new(weight, shape, spec).map_err(cluster_error(name))?;
    let centroids = match (importance, row_scales) {
        (Some(importance), _) => prepared.initial_weighted(&of_divided(importance, shape, row_scales)),
        (None, Some(scales)) => {
            let of_row = |&scale: &f32| std::iter::repeat_n(scale * scale, shape.cols);
            prepared.initial_weighted(&scales.iter().flat_map(of_row).collect::<Vec<_>>())
        }
        (None, None) => prepared.initial(),
    };
    let centroids = centroids.map_err(cluster_error(name))?;
    pack(&prepared, shape, palette_spec(spec, dtype), &centroids, row_scales)
        .map_err(|error| LlamaError::of_palettes(name, error))
}

/// The importances of weights whose rows were divided: an error in a divided row counts by the square of what multiplies it again.
pub(crate) fn of_divided<'i>(importance: &'i [f32], shape: MatrixShape, row_scales: Option<&[f32]>) -> Cow<'i, [f32]> {
    match row_scales {
        None => Cow::Borrowed(importance),
        Some(scales) => importance
            .chunks(shape.cols.max(1))
            .zip(scales)
            .flat_map(|(row, scale)| row.iter().map(move |i| i * scale * scale))
            .collect(),
    }
}

/// Gives parameters other numbers: those that `values` has for their name and the numbers they have, if it has any.
///
/// # Errors
/// The device's, when it cannot hold them.
pub(crate) fn replace_values<D: EdkmDevice>(
    model: &mut DynamicLlama<D>,
    values: impl FnMut(&str, &dyn Fn() -> Vec<f32>) -> Option<Vec<f32>>,
) -> Result<(), TrainError> {
    struct Replace<F>(F);
    impl<D: EdkmDevice, F: FnMut(&str, &dyn Fn() -> Vec<f32>) -> Option<Vec<f32>>> ParameterVisitor<D> for Replace<F> {
        type Error = TrainError;
        fn visit<S: Shape>(
            &mut self,
            name: &str,
            _: ParameterKind<'_>,
            parameter: &mut Tensor<S, f32, D>,
        ) -> Result<(), TrainError> {
            let Some(values) = self.0(name, &|| parameter.as_vec()) else {
                return Ok(());
            };
            let (device, shape) = (parameter.device().clone(), *parameter.shape());
            *parameter = device
                .tensor_from_host(values, shape)
                .map_err(|error| TrainError::Device {
                    reason: format!("{name}: {error}"),
                })?;
            Ok(())
        }
    }
    model.visit_parameters("", &mut Replace(values))
}

/// A copy of `model` that computes with the palettized weights, unclustered: what the compressed model will say.
///
/// # Errors
/// The device's, when it cannot hold the weights.
pub fn with_palettes<D: EdkmDevice>(
    model: &DynamicLlama<D>,
    palettes: &[PalettizedParameter],
) -> Result<DynamicLlama<D>, TrainError> {
    let mut copy = model.clone();
    replace_values(&mut copy, |name, _| {
        let palettized = palettes.iter().find(|palettized| palettized.name == name)?;
        Some(palettized.matrix.dequantize())
    })?;
    copy.set_clustering(&|_: &edkm_llama::names::Parameter| None);
    Ok(copy)
}

/// [`with_palettes`], and all else in the type that it is written in: what a file with these palettes will say.
///
/// # Errors
/// As [`with_palettes`].
pub(crate) fn as_written<D: EdkmDevice>(
    model: &DynamicLlama<D>,
    palettes: &[PalettizedParameter],
    dtype: FloatDtype,
) -> Result<DynamicLlama<D>, TrainError> {
    let mut copy = with_palettes(model, palettes)?;
    if dtype == FloatDtype::F32 {
        return Ok(copy);
    }
    let is_palettized = |name: &str| palettes.iter().any(|palettized| palettized.name == name);
    replace_values(&mut copy, |name, numbers| {
        (!is_palettized(name)).then(|| {
            let mut numbers = numbers();
            dtype.round(&mut numbers);
            numbers
        })
    })?;
    Ok(copy)
}
