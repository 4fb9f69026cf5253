//! A clustered weight on a GPU: the passes over its numbers there, the tables between them on the host.
//!
//! Scalars in one palette or in groups of channels never leave the device: counts, sums and tables by 16-bit value do, 65,536 entries a palette. Vectors
//! and weights with a factor for each channel are clustered on the host, at the price of copies of the weight.

use edkm_cluster::{ClusterError, Counted, HalfKind, KeyCounts, MatrixShape, Prepared, Spec};
use edkm_cuda::clustering::{count, look_up, multiply_add, sum_by_key, Half, KEYS};
use edkm_cuda::driver::{Gpu, GpuError};
use edkm_cuda::{elementwise, Array, Slice, SliceMut};

use super::{ClusteredUse, LinearDims};
use crate::device::cuda::error_of_op;
use crate::{ChannelScale, Clustering, EdkmError};

/// Clusters the weight of `op`.
pub(crate) fn cluster(
    gpu: &Gpu,
    op: &str,
    weight: Slice<'_, f32>,
    shape: MatrixShape,
    clustering: &Clustering,
) -> Result<ClusteredUse, EdkmError> {
    let _span = tracing::trace_span!("cluster", rows = shape.rows, cols = shape.cols).entered();
    let refused = |source| EdkmError::Cluster { op: op.into(), source };
    let spec = clustering.spec();
    if spec.dim() != 1 || clustering.channel_scale() != ChannelScale::None {
        let weight = weight.to_host(gpu).map_err(error_of_op)?;
        return clustering.cluster(&weight, shape).map_err(refused);
    }
    let counts = (0..spec.grouping.palettes(shape))
        .map(|palette| count(gpu, of_palette(weight, shape, &spec, palette), half(&spec)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(error_of_op)?;
    let by_palette: Vec<_> = counts
        .iter()
        .map(|counts| KeyCounts {
            counts: &counts.counts,
            magnitude_bits: counts.magnitude_bits,
        })
        .collect();
    let Some(counted) = Counted::new(shape, &spec, &by_palette).map_err(refused)? else {
        // the host finds out which weight it is
        let weight = weight.to_host(gpu).map_err(error_of_op)?;
        let unusable = Prepared::new(&weight, shape, &spec).err();
        return Err(refused(unusable.unwrap_or(ClusterError::NonFinite {
            index: 0,
            value: f32::NAN,
        })));
    };
    Ok(ClusteredUse {
        trajectory: clustering.reach(&counted).map_err(refused)?,
        spec,
        row_scales: None,
    })
}

/// The weight that multiplies.
pub(crate) enum Effective<'a> {
    /// The weight itself.
    Weight(Slice<'a, f32>),
    /// W~.
    Clustered(Array<Gpu, f32>),
}

impl Effective<'_> {
    /// W~, or the weight itself where there is no clustering. Memory: the weight's size, if it is clustered.
    pub(crate) fn of<'a>(
        gpu: &Gpu,
        dims: LinearDims,
        weight: Slice<'a, f32>,
        clustered: Option<&ClusteredUse>,
    ) -> Result<Effective<'a>, EdkmError> {
        let Some(clustered) = clustered else {
            return Ok(Effective::Weight(weight));
        };
        let (shape, spec) = (dims.weight_shape(), &clustered.spec);
        let _span = tracing::trace_span!("clustered weight", rows = shape.rows, cols = shape.cols).entered();
        let mut effective = Array::zeroed(gpu, weight.len()).map_err(error_of_op)?;
        if !by_tables(clustered) {
            let weight = weight.to_host(gpu).map_err(error_of_op)?;
            let mut out = vec![0.0; weight.len()];
            clustered
                .clustered_into(&weight, shape, &mut out)
                .map_err(super::cluster_error)?;
            effective.write(gpu, &out).map_err(error_of_op)?;
            return Ok(Effective::Clustered(effective));
        }
        let mut table = vec![0.0; KEYS];
        for palette in 0..spec.grouping.palettes(shape) {
            clustered
                .trajectory
                .clustered_table(palette, &mut table)
                .map_err(super::cluster_error)?;
            let range = spec.grouping.weights_of(shape, palette);
            let weights = of_palette(weight, shape, spec, palette);
            let mut out = effective.as_mut();
            look_up(gpu, weights, half(spec), &table, out.part(range.start, range.len())).map_err(error_of_op)?;
        }
        Ok(Effective::Clustered(effective))
    }

    /// To read.
    pub(crate) fn as_slice(&self) -> Slice<'_, f32> {
        match self {
            Effective::Weight(weight) => *weight,
            Effective::Clustered(clustered) => clustered.as_slice(),
        }
    }
}

/// Runs `f` on the weight that multiplies and on its gradient, to be added to, and takes that to the weight itself. Memory: twice the weight's size, if it is
/// clustered.
pub(crate) fn with_gradient(
    gpu: &Gpu,
    dims: LinearDims,
    weight: Slice<'_, f32>,
    clustered: Option<&ClusteredUse>,
    grad_weight: SliceMut<'_, f32>,
    f: impl FnOnce(Slice<'_, f32>, SliceMut<'_, f32>) -> Result<(), GpuError>,
) -> Result<(), EdkmError> {
    let Some(clustered_use) = clustered else {
        return f(weight, grad_weight).map_err(error_of_op);
    };
    let effective = Effective::of(gpu, dims, weight, clustered)?;
    let mut grad_clustered = Array::zeroed(gpu, weight.len()).map_err(error_of_op)?;
    f(effective.as_slice(), grad_clustered.as_mut()).map_err(error_of_op)?;
    // its memory serves the next step
    drop(effective);
    backward_accumulate(gpu, dims, weight, clustered_use, grad_clustered.as_slice(), grad_weight)
}

/// Adds dL/dW to `grad_weight`, given dL/dW~.
pub(crate) fn backward_accumulate(
    gpu: &Gpu,
    dims: LinearDims,
    weight: Slice<'_, f32>,
    clustered: &ClusteredUse,
    grad_clustered: Slice<'_, f32>,
    mut grad_weight: SliceMut<'_, f32>,
) -> Result<(), EdkmError> {
    let (shape, spec) = (dims.weight_shape(), &clustered.spec);
    let _span = tracing::trace_span!("cluster backward", rows = shape.rows, cols = shape.cols).entered();
    if !by_tables(clustered) {
        let weight = weight.to_host(gpu).map_err(error_of_op)?;
        let mut upstream = grad_clustered.to_host(gpu).map_err(error_of_op)?;
        let mut total = vec![0.0; weight.len()];
        clustered
            .backward_accumulate(&weight, shape, &mut upstream, &mut total)
            .map_err(super::cluster_error)?;
        let total = Array::from_host(gpu, &total).map_err(error_of_op)?;
        return elementwise::add_assign(gpu, grad_weight, total.as_slice()).map_err(error_of_op);
    }
    let mut table = vec![[0.0; 2]; KEYS];
    for palette in 0..spec.grouping.palettes(shape) {
        let range = spec.grouping.weights_of(shape, palette);
        let weights = of_palette(weight, shape, spec, palette);
        let upstream = grad_clustered.part(range.start, range.len());
        let counts = count(gpu, weights, half(spec)).map_err(error_of_op)?.counts;
        let sums = sum_by_key(gpu, weights, half(spec), upstream).map_err(error_of_op)?;
        clustered
            .trajectory
            .gradient_table(palette, &counts, &sums, &mut table)
            .map_err(super::cluster_error)?;
        let total = grad_weight.part(range.start, range.len());
        multiply_add(gpu, weights, half(spec), &table, upstream, total).map_err(error_of_op)?;
    }
    Ok(())
}

fn by_tables(clustered: &ClusteredUse) -> bool {
    clustered.spec.dim() == 1 && clustered.row_scales.is_none()
}

fn of_palette<'a>(weight: Slice<'a, f32>, shape: MatrixShape, spec: &Spec, palette: usize) -> Slice<'a, f32> {
    let range = spec.grouping.weights_of(shape, palette);
    weight.part(range.start, range.len())
}

fn half(spec: &Spec) -> Half {
    match spec.half {
        HalfKind::Bf16 => Half::Bf16,
        HalfKind::F16 => Half::F16,
    }
}
