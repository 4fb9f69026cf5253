//! Scalar palettes: everything on the distinct 16-bit values of the weights.
//!
//! All weights with the same value share a row of the attention map, in forward and backward alike. So clustering costs
//! O(distinct values x clusters), with passes over the weights only to count, to sum gradients and to look up (uniquification of
//! eDKM, arXiv 2309.00964, section 2.2, carried through the backward pass).

pub(crate) mod attention;
pub(crate) mod gradient;
pub(crate) mod hard;
pub(crate) mod histogram;
pub(crate) mod lookup;
mod order;
pub(crate) mod rows;
mod starved;
mod table;
mod tables;
mod update;

use rayon::prelude::*;

use crate::half_key::{from_rank, is_zero, rank, BLOCK, KEYS};
use crate::lanes::Lanes;
use crate::parallel::Execution;
use crate::scalar::histogram::{count, count_parallel, Distinct};
use crate::scalar::rows::{pack_values, Rows};
use crate::scalar::tables::Tables;
use crate::target::Target;
use crate::temperature::gap;
use crate::trajectory::PaletteTrajectory;
use crate::{GradientMode, HalfKind, KeepZero, Spec};

/// Weights of one part of a pass that is spread over threads.
const PART: usize = 128 * BLOCK;

/// Which strides of 64 consecutive keys (in order of value) occur among a palette's weights.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Occupied([u64; Occupied::STRIDES / 64]);

impl Occupied {
    const STRIDE: usize = 64;
    const STRIDES: usize = KEYS / Self::STRIDE;

    fn of(distinct: &Distinct) -> Self {
        let mut occupied = [0; Self::STRIDES / 64];
        for &key in &distinct.keys_u {
            let stride = rank(key) as usize / Self::STRIDE;
            occupied[stride / 64] |= 1 << (stride % 64);
        }
        Occupied(occupied)
    }

    /// All finite keys of the strides that occur, in order of value.
    fn keys(&self, half: HalfKind) -> Vec<u16> {
        let occupied = (0..Self::STRIDES).filter(|stride| self.0[stride / 64] >> (stride % 64) & 1 == 1);
        let ranks = occupied.flat_map(|stride| stride * Self::STRIDE..(stride + 1) * Self::STRIDE);
        ranks
            .map(|rank| from_rank(rank as u16))
            .filter(|key| key & 0x7fff <= half.largest_key())
            .collect()
    }
}

/// The distinct values of a palette's weights, or the position of a weight that does not round to a finite number.
pub(crate) fn prepare(weights: &[f32], half: HalfKind, execution: Execution) -> Result<Distinct, usize> {
    let (distinct, magnitude) = count_weights(half, weights, None, execution);
    if magnitude < half.first_unusable_bits() {
        return Ok(distinct);
    }
    Err(half.first_unusable(weights).unwrap_or(0))
}

/// Counts weights, and sums other numbers by their values.
pub(crate) fn count_weights(
    half: HalfKind,
    weights: &[f32],
    addends: Option<&[f32]>,
    execution: Execution,
) -> (Distinct, u32) {
    match execution {
        Execution::Here => count(half, weights, addends),
        Execution::Pool => count_parallel(half, weights, addends),
    }
}

/// Repeats assignment and update from the given centroids, which become the start of the trajectory.
pub(crate) fn iterate(
    distinct: &Distinct,
    mut start_k: Vec<f64>,
    spec: &Spec,
    execution: Execution,
) -> PaletteTrajectory {
    let pinned = match spec.keep_zero {
        KeepZero::Free => None,
        KeepZero::Exact => {
            let zero = hard::Nearest::new(&start_k).cluster(0.0);
            start_k[zero] = 0.0;
            Some(zero)
        }
    };
    let rows = Rows::new(distinct, spec.half, spec.keep_zero);
    let gap = gap(&start_k, 1);
    let tau = spec.temperature.tau(gap);
    let mut trajectory = PaletteTrajectory::new(tau, pinned, start_k.clone(), start_k.len());
    trajectory.occupied = (execution == Execution::Pool).then(|| Occupied::of(distinct));
    // All weights may be zeros that are kept.
    if rows.mass == 0.0 {
        return trajectory;
    }
    let mut centroids_k = start_k;
    while trajectory.done < spec.iterations {
        let (next_k, log_mass_k) = match spec.gradient {
            GradientMode::StraightThrough => (hard::update(&rows, &centroids_k, pinned), Vec::new()),
            GradientMode::Unrolled | GradientMode::Implicit => {
                let updated = update::update(&rows, &centroids_k, tau, pinned, execution);
                (updated.centroids_k, updated.log_mass_k)
            }
        };
        trajectory.keep(spec.gradient, &next_k, log_mass_k);
        let moved = next_k
            .iter()
            .zip(&centroids_k)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        centroids_k = next_k;
        // Not `<=`: without a tolerance all repetitions are done, for the gradient runs through all of them.
        if moved < spec.tolerance * gap {
            break;
        }
    }
    trajectory
}

/// Writes clustered weights.
pub(crate) fn clustered(
    trajectory: &PaletteTrajectory,
    weights: &[f32],
    spec: &Spec,
    execution: Execution,
    out: &mut [f32],
) {
    let keys_u = match &trajectory.occupied {
        Some(occupied) => occupied.keys(spec.half),
        None => count_weights(spec.half, weights, None, execution).0.keys_u,
    };
    let clustered_u = clustered_values(trajectory, &keys_u, spec, execution);
    Tables::with_local(|tables| {
        tables.with_clustered(&keys_u, &clustered_u, |table| {
            let parts: Vec<_> = weights.chunks(PART).zip(out.chunks_mut(PART)).collect();
            execution.map(parts, |(weights, out)| lookup::gather(spec.half, weights, table, out));
        });
    });
}

/// Clustered values of ascending keys.
fn clustered_values(trajectory: &PaletteTrajectory, keys_u: &[u16], spec: &Spec, execution: Execution) -> Vec<Lanes> {
    let values_u = pack_values(keys_u, spec.half);
    let mut clustered_u = match trajectory.repetitions().last() {
        Some(last) => table::clustered(&values_u, last.before_k, last.after_k, trajectory.tau, execution),
        None => {
            // The palette that others see holds f32 numbers: assign to those.
            let palette: Vec<f64> = trajectory.step(0).iter().map(|&c| (c as f32).into()).collect();
            let nearest = hard::Nearest::new(&palette);
            Lanes::pack(
                keys_u.iter().map(|&key| palette[nearest.cluster(spec.half.value(key))]),
                0.0,
            )
        }
    };
    zero_where_kept(keys_u, spec.keep_zero, &mut clustered_u);
    clustered_u
}

/// Turns dL/dW~ into dL/dW.
pub(crate) fn backward(
    trajectory: &PaletteTrajectory,
    weights: &[f32],
    spec: &Spec,
    execution: Execution,
    target: Target<'_>,
) {
    if spec.gradient == GradientMode::StraightThrough {
        return straight_through(weights, spec, execution, target);
    }
    let (distinct, _) = count_weights(spec.half, weights, Some(target.upstream()), execution);
    let rows = Rows::new(&distinct, spec.half, spec.keep_zero);
    let upstream_u = Rows::sums(&distinct, spec.keep_zero);
    let mut gradient = gradient::unrolled(&rows, &upstream_u, trajectory, execution);
    zero_where_kept(&distinct.keys_u, spec.keep_zero, &mut gradient.slope_u);
    zero_where_kept(&distinct.keys_u, spec.keep_zero, &mut gradient.shift_u);
    Tables::with_local(|tables| {
        tables.with_gradient(&distinct.keys_u, &gradient.slope_u, &gradient.shift_u, |table| {
            let parts: Vec<_> = weights.chunks(PART).zip(target.split(PART)).collect();
            execution.map(parts, |(weights, target)| match target {
                Target::InPlace(grad) => lookup::mul_add(spec.half, weights, table, grad),
                Target::Accumulate { upstream, total } => {
                    lookup::mul_add_accumulate(spec.half, weights, table, upstream, total);
                }
            });
        });
    });
}

/// The gradient of the hard assignment passes as it is, but to zeros that are kept.
pub(crate) fn straight_through(weights: &[f32], spec: &Spec, execution: Execution, target: Target<'_>) {
    let kept = |weight: f32| spec.keep_zero == KeepZero::Exact && spec.half.rounded(weight) == 0.0;
    let parts: Vec<_> = weights.chunks(PART).zip(target.split(PART)).collect();
    execution.map(parts, |(weights, target)| match target {
        Target::InPlace(_) if spec.keep_zero == KeepZero::Free => {}
        Target::InPlace(grad) => {
            for (grad, &weight) in grad.iter_mut().zip(weights) {
                *grad = if kept(weight) { 0.0 } else { *grad };
            }
        }
        Target::Accumulate { upstream, total } => {
            for ((total, grad), &weight) in total.iter_mut().zip(upstream).zip(weights) {
                *total += if kept(weight) { 0.0 } else { *grad };
            }
        }
    });
}

fn zero_where_kept(keys_u: &[u16], keep_zero: KeepZero, numbers_u: &mut [Lanes]) {
    if keep_zero == KeepZero::Exact {
        for (i, _) in keys_u.iter().enumerate().filter(|(_, &key)| is_zero(key)) {
            numbers_u[i / crate::lanes::LANES].0[i % crate::lanes::LANES] = 0.0;
        }
    }
}

/// Writes the nearest centroid's index for each weight.
pub(crate) fn assign(
    distinct: &Distinct,
    palette_k: &[f64],
    weights: &[f32],
    half: HalfKind,
    execution: Execution,
    out: &mut [u8],
) {
    let nearest = hard::Nearest::new(palette_k);
    let mut table = histogram::zeroed::<u8>();
    for &key in &distinct.keys_u {
        table[key as usize] = nearest.cluster(half.value(key)) as u8;
    }
    let parts: Vec<_> = weights.chunks(PART).zip(out.chunks_mut(PART)).collect();
    match execution {
        Execution::Here => parts
            .into_iter()
            .for_each(|(w, out)| lookup::gather(half, w, &table, out)),
        Execution::Pool => parts
            .into_par_iter()
            .for_each(|(w, out)| lookup::gather(half, w, &table, out)),
    }
}
