//! A clustered weight on a GPU: the passes over its numbers and the tables between them there.
//!
//! Scalars in one palette or in groups of channels are clustered on the device ([`repetitions`]), from where the weight before ended; where a first weight
//! begins is found on the host, of its counts. The tables of palettes with a cluster that hardly any weight chooses, and of gradients that are not unrolled,
//! are the host's: counts, sums and tables by 16-bit value are copied then, 65,536 entries a palette and 64 palettes at a time. Where each channel has a factor, what is clustered is a copy of the weight
//! with its rows divided, made anew for each pass. Vectors are clustered on the host, at the price of copies of the weight.

use std::any::Any;
use std::sync::Arc;

use edkm_cluster::elsewhere::{palette_starts, Fingerprints, PaletteWay};
use edkm_cluster::{ClusterError, Counted, GradientMode, KeepZero, KeyCounts, MatrixShape, Prepared, Spec, Trajectory};
use edkm_cuda::clustering::{count, look_up, multiply_add, sum_by_key, Palettes, KEYS};
use edkm_cuda::driver::{Gpu, GpuError};
use edkm_cuda::repetitions::{self, Found, Kept, Settings, Starts};
use edkm_cuda::row_scales::{self, Divided};
use edkm_cuda::{elementwise, Array, Slice, SliceMut};
use rayon::prelude::*;

use super::{ClusteredUse, LinearDims};
use crate::clustering::start::{has_collapsed, some_may_begin_anew};
use crate::device::cuda::{error_of_op, half};
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
    if spec.dim() != 1 {
        let weight = weight.to_host(gpu).map_err(error_of_op)?;
        return clustering.cluster(&weight, shape).map_err(refused);
    }
    spec.check_for(shape).map_err(refused)?;
    match clustering.channel_scale() {
        ChannelScale::None => cluster_scalars(gpu, op, weight, shape, &spec, clustering),
        ChannelScale::RootMeanSquare => {
            let divided = row_scales::divided(gpu, weight, shape.cols).map_err(error_of_op)?;
            let found = cluster_scalars(gpu, op, divided.weight.as_slice(), shape, &spec, clustering)?;
            // for what the host may have to do; the device is waited for already
            let scales = divided.scales.as_slice().to_host(gpu).map_err(error_of_op)?;
            Ok(ClusteredUse {
                row_scales: Some(scales.into()),
                ..found
            })
        }
    }
}

/// Clusters numbers as they are.
fn cluster_scalars(
    gpu: &Gpu,
    op: &str,
    weight: Slice<'_, f32>,
    shape: MatrixShape,
    spec: &Spec,
    clustering: &Clustering,
) -> Result<ClusteredUse, EdkmError> {
    let there = match spec.gradient {
        GradientMode::Unrolled => {
            if clustering.state().is_none() {
                with_counts(gpu, op, weight, shape, spec, |counted| clustering.begin(counted))?;
            }
            cluster_there(gpu, op, weight, shape, spec, clustering)?
        }
        GradientMode::Implicit | GradientMode::StraightThrough => None,
    };
    let (trajectory, kept) = match there {
        Some(found) => found,
        None => {
            let trajectory = with_counts(gpu, op, weight, shape, spec, |counted| clustering.reach(counted))?;
            (trajectory, None)
        }
    };
    Ok(ClusteredUse {
        trajectory,
        spec: *spec,
        row_scales: None,
        of_device: kept.map(|kept| Arc::new(kept) as Arc<dyn Any + Send + Sync>),
    })
}

/// What the device has found, and what it keeps of that.
type OnDevice = (Arc<Trajectory>, Option<Kept<Gpu>>);

/// All of it on the device, from where the weight before ended; none if that is not known, or is for the host.
fn cluster_there(
    gpu: &Gpu,
    op: &str,
    weight: Slice<'_, f32>,
    shape: MatrixShape,
    spec: &Spec,
    clustering: &Clustering,
) -> Result<Option<OnDevice>, EdkmError> {
    let refused = |source| EdkmError::Cluster { op: op.into(), source };
    // palettes that may begin anew do so on the host
    let Some(state) = clustering.state().filter(|state| !some_may_begin_anew(&state.last)) else {
        return Ok(None);
    };
    let fingerprints = Fingerprints::new(shape, spec);
    let starts = Starts {
        digest: fingerprints.digest_of(state.fingerprint),
        known: palette_starts(shape, spec, &state.start).map_err(refused)?,
        other: palette_starts(shape, spec, &state.last).map_err(refused)?,
    };
    let weights = palettes(weight, shape, spec).expecting(2.0 * largest(state.last.as_slice().iter().copied()));
    let found = repetitions::forward(gpu, weights, settings(spec), &starts);
    let (found, kept) = found.map_err(error_of_op)?;
    let Found {
        digest,
        magnitudes,
        ways,
    } = found;
    if magnitudes.iter().any(|&bits| bits >= spec.half.first_unusable_bits()) {
        return Ok(None);
    }
    let fingerprint = fingerprints.of_digest(digest);
    let Some(ways) = ways else {
        return Ok(None);
    };
    if let Some(known) = clustering.known(fingerprint, spec) {
        // found by the host, whose sums are of another order, it gives other bits than what was kept of the device's way
        let kept = kept.filter(|_| known.ways().is_some_and(|known| is_the_way(&known, &ways)));
        return Ok(Some((known, kept)));
    }
    let start = match state.fingerprint == fingerprint {
        true => &state.start,
        false => &state.last,
    };
    let trajectory = Trajectory::from_ways(shape, spec, start, ways).map_err(refused)?;
    Ok(Some((clustering.settle(fingerprint, spec, trajectory), kept)))
}

/// Whether the centroids went the same way to the last bit.
fn is_the_way(known: &[PaletteWay], found: &[PaletteWay]) -> bool {
    known.len() == found.len()
        && known
            .iter()
            .zip(found)
            .all(|(known, found)| known.centroids_tk == found.centroids_tk && known.log_mass_tk == found.log_mass_tk)
}

/// Counts there, and `f` on the host.
fn with_counts<T>(
    gpu: &Gpu,
    op: &str,
    weight: Slice<'_, f32>,
    shape: MatrixShape,
    spec: &Spec,
    f: impl FnOnce(&Counted) -> Result<T, ClusterError>,
) -> Result<T, EdkmError> {
    let refused = |source| EdkmError::Cluster { op: op.into(), source };
    let parts = palettes(weight, shape, spec).parts(repetitions::AT_ONCE);
    let counts = parts
        .map(|(_, part)| count(gpu, part))
        .collect::<Result<Vec<_>, _>>()
        .map_err(error_of_op)?
        .concat();
    let by_palette: Vec<_> = counts
        .iter()
        .map(|counts| KeyCounts {
            counts: &counts.counts,
            magnitude_bits: counts.magnitude_bits,
        })
        .collect();
    let Some(counted) = Counted::new(shape, spec, &by_palette).map_err(refused)? else {
        // the host finds out which weight it is
        let weight = weight.to_host(gpu).map_err(error_of_op)?;
        let unusable = Prepared::new(&weight, shape, spec).err();
        return Err(refused(unusable.unwrap_or(ClusterError::NonFinite {
            index: 0,
            value: f32::NAN,
        })));
    };
    f(&counted).map_err(refused)
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
        let shape = dims.weight_shape();
        let _span = tracing::trace_span!("clustered weight", rows = shape.rows, cols = shape.cols).entered();
        if !by_tables(clustered) {
            let weight = weight.to_host(gpu).map_err(error_of_op)?;
            let mut out = vec![0.0; weight.len()];
            clustered
                .clustered_into(&weight, shape, &mut out)
                .map_err(super::cluster_error)?;
            let effective = Array::from_host(gpu, &out).map_err(error_of_op)?;
            return Ok(Effective::Clustered(effective));
        }
        let Some(divided) = divided(gpu, weight, shape, clustered)? else {
            return Ok(Effective::Clustered(looked_up(gpu, weight, shape, clustered)?));
        };
        let mut effective = looked_up(gpu, divided.weight.as_slice(), shape, clustered)?;
        row_scales::multiply(gpu, effective.as_mut(), divided.scales.as_slice()).map_err(error_of_op)?;
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

/// The weight with its rows divided, if each has a factor. Memory: the weight's size then.
fn divided(
    gpu: &Gpu,
    weight: Slice<'_, f32>,
    shape: MatrixShape,
    clustered: &ClusteredUse,
) -> Result<Option<Divided<Gpu>>, EdkmError> {
    match clustered.row_scales {
        None => Ok(None),
        Some(_) => row_scales::divided(gpu, weight, shape.cols)
            .map(Some)
            .map_err(error_of_op),
    }
}

/// What each number becomes that is clustered. Memory: the weight's size.
fn looked_up(
    gpu: &Gpu,
    weight: Slice<'_, f32>,
    shape: MatrixShape,
    clustered: &ClusteredUse,
) -> Result<Array<Gpu, f32>, EdkmError> {
    let spec = &clustered.spec;
    if let Some(ways) = clustered.trajectory.ways() {
        let (weights, kept) = (palettes(weight, shape, spec), kept_of(clustered));
        return repetitions::clustered(gpu, weights, settings(spec), &ways, kept).map_err(error_of_op);
    }
    let mut looked_up = Array::unset(gpu, weight.len()).map_err(error_of_op)?;
    let all = palettes(weight, shape, spec);
    for (first, part) in all.parts(repetitions::AT_ONCE) {
        let mut tables = vec![0.0; part.palettes() * KEYS];
        tables
            .par_chunks_exact_mut(KEYS)
            .enumerate()
            .try_for_each(|(index, table)| clustered.trajectory.clustered_table(first + index, table))
            .map_err(super::cluster_error)?;
        let range = all.weights_of(first, part.palettes());
        let mut out = looked_up.as_mut();
        look_up(gpu, part, &tables, out.part(range.start, range.len())).map_err(error_of_op)?;
    }
    Ok(looked_up)
}

/// Runs `f` on the weight that multiplies and on its gradient, to be added to, and takes that to the weight itself. Memory: twice the weight's size, if it is
/// clustered, and four times if each row has a factor.
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
    grad_weight: SliceMut<'_, f32>,
) -> Result<(), EdkmError> {
    let shape = dims.weight_shape();
    let _span = tracing::trace_span!("cluster backward", rows = shape.rows, cols = shape.cols).entered();
    let start = clustered.trajectory.start();
    let some_have_collapsed = (0..start.groups()).any(|palette| has_collapsed(start, palette));
    if !by_tables(clustered) || some_have_collapsed {
        let weight = weight.to_host(gpu).map_err(error_of_op)?;
        let mut upstream = grad_clustered.to_host(gpu).map_err(error_of_op)?;
        let mut total = vec![0.0; weight.len()];
        clustered
            .backward_accumulate(&weight, shape, &mut upstream, &mut total)
            .map_err(super::cluster_error)?;
        let total = Array::from_host(gpu, &total).map_err(error_of_op)?;
        return elementwise::add_assign(gpu, grad_weight, total.as_slice()).map_err(error_of_op);
    }
    let Some(divided) = divided(gpu, weight, shape, clustered)? else {
        return through_repetitions(gpu, weight, shape, clustered, grad_clustered, grad_weight);
    };
    let weight = divided.weight.as_slice();
    let scales = divided.scales.as_slice();
    let mut numbers = looked_up(gpu, weight, shape, clustered)?;
    let grad_scales =
        row_scales::multiplication_backward(gpu, grad_clustered, scales, numbers.as_mut()).map_err(error_of_op)?;
    let mut grad_divided = Array::zeroed(gpu, weight.len()).map_err(error_of_op)?;
    through_repetitions(gpu, weight, shape, clustered, numbers.as_slice(), grad_divided.as_mut())?;
    row_scales::add_through_division(
        gpu,
        &divided,
        grad_divided.as_slice(),
        grad_scales.as_slice(),
        grad_weight,
    )
    .map_err(error_of_op)
}

/// Adds to the gradient of numbers that are clustered, given that of what they become.
fn through_repetitions(
    gpu: &Gpu,
    weight: Slice<'_, f32>,
    shape: MatrixShape,
    clustered: &ClusteredUse,
    grad_clustered: Slice<'_, f32>,
    mut grad_weight: SliceMut<'_, f32>,
) -> Result<(), EdkmError> {
    let spec = &clustered.spec;
    if let Some(ways) = ways_there(clustered, shape) {
        let centroids = ways.iter().flat_map(|way| &way.centroids_tk);
        let weights = palettes(weight, shape, spec).expecting(2.0 * largest(centroids.map(|&c| c as f32)));
        let (settings, kept) = (settings(spec), kept_of(clustered));
        let mut total = grad_weight.reborrow();
        return repetitions::backward_accumulate(gpu, weights, settings, &ways, kept, grad_clustered, &mut total)
            .map_err(error_of_op);
    }
    let all = palettes(weight, shape, spec);
    for (first, part) in all.parts(repetitions::AT_ONCE) {
        let range = all.weights_of(first, part.palettes());
        let upstream = grad_clustered.part(range.start, range.len());
        let counts = count(gpu, part).map_err(error_of_op)?;
        let sums = sum_by_key(gpu, part, upstream).map_err(error_of_op)?;
        let mut tables = vec![[0.0; 2]; part.palettes() * KEYS];
        tables
            .par_chunks_exact_mut(KEYS)
            .zip(counts.par_iter().zip(&sums))
            .enumerate()
            .try_for_each(|(index, (table, (counts, sums)))| {
                let trajectory = &clustered.trajectory;
                trajectory.gradient_table(first + index, &counts.counts, sums, table)
            })
            .map_err(super::cluster_error)?;
        let total = grad_weight.part(range.start, range.len());
        multiply_add(gpu, part, &tables, upstream, total).map_err(error_of_op)?;
    }
    Ok(())
}

/// The ways of all palettes, if they can be differentiated on the device.
fn ways_there(clustered: &ClusteredUse, shape: MatrixShape) -> Option<Vec<PaletteWay>> {
    let weights = clustered.spec.grouping.weights_per_palette(shape);
    let ways = clustered.trajectory.ways()?;
    let is_for_the_host = ways.iter().any(|way| repetitions::is_starved(way, weights));
    (!is_for_the_host).then_some(ways)
}

/// What the forward pass has kept.
fn kept_of(clustered: &ClusteredUse) -> Option<&Kept<Gpu>> {
    clustered.of_device.as_deref().and_then(|kept| kept.downcast_ref())
}

/// Bytes that stay from the forward to the backward pass, on the host and on the device.
pub(crate) fn saved_bytes(clustered: &ClusteredUse) -> usize {
    clustered.trajectory.saved_bytes() + kept_of(clustered).map_or(0, Kept::bytes)
}

fn by_tables(clustered: &ClusteredUse) -> bool {
    clustered.spec.dim() == 1
}

fn palettes<'a>(weight: Slice<'a, f32>, shape: MatrixShape, spec: &Spec) -> Palettes<'a> {
    Palettes::new(weight, spec.grouping.weights_per_palette(shape), half(spec.half))
}

/// The largest magnitude of a palette. Hardly any weight is twice as large.
fn largest(centroids: impl Iterator<Item = f32>) -> f32 {
    centroids.fold(0.0, |largest, c| largest.max(c.abs()))
}

fn settings(spec: &Spec) -> Settings {
    Settings {
        clusters: spec.clusters(),
        repetitions: spec.iterations,
        keep_zero: spec.keep_zero == KeepZero::Exact,
        at_once: repetitions::AT_ONCE,
    }
}
