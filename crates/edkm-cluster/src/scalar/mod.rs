//! Scalar palettes: everything on the distinct 16-bit values of the weights.
//!
//! All weights with the same value share a row of the attention map, in forward and backward alike. So clustering costs
//! O(distinct values x clusters), with passes over the weights only to count, to sum gradients and to look up (uniquification of
//! eDKM, arXiv 2309.00964, section 2.2, carried through the backward pass).

pub(crate) mod attention;
mod gap;
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

use crate::engine::{Engine, Source};
use crate::half_key::{from_rank, is_zero, rank, BLOCK, KEYS};
use crate::init::{scalar_start, Initialization, Start};
use crate::lanes::Lanes;
use crate::parallel::Execution;
use crate::repeat::{repeat, Moved};
use crate::scalar::histogram::{count, count_parallel, Distinct};
use crate::scalar::rows::{pack_values, takes_part, Rows};
use crate::scalar::tables::Tables;
use crate::target::Target;
use crate::trajectory::PaletteTrajectory;
use crate::{GradientMode, HalfKind, KeepZero, Spec};

/// Weights of one part of a pass that is spread over threads.
pub(crate) const PART: usize = 128 * BLOCK;

/// Which strides of 64 consecutive keys (in order of value) occur among a palette's weights.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Occupied([u64; Occupied::STRIDES / 64]);

impl Occupied {
    const STRIDE: usize = 64;
    const STRIDES: usize = KEYS / Self::STRIDE;
    const ALL: Self = Occupied([u64::MAX; Self::STRIDES / 64]);

    pub(crate) fn of(distinct: &Distinct) -> Self {
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

/// Clustering of scalars.
pub(crate) struct Scalars;

impl Engine for Scalars {
    fn count(&self, source: Source<'_>) -> Result<Distinct, usize> {
        let (distinct, magnitude) = count_weights(source, None);
        if magnitude < source.spec.half.first_unusable_bits() {
            return Ok(distinct);
        }
        Err(source.spec.half.first_unusable(source.weights).unwrap_or(0))
    }

    fn rows(&self, _: Source<'_>, distinct: &Distinct) -> usize {
        distinct.len()
    }

    fn start(&self, source: Source<'_>, distinct: &Distinct, start: Start<'_>) -> Vec<f64> {
        match start {
            Start::Alike(initialization) => {
                let masses: Vec<f64> = distinct.counts_u.iter().map(|&count| count.into()).collect();
                scalar_start(distinct, &masses, source.spec, initialization)
            }
            Start::Weighted(importance) => {
                let (distinct, _) = count_weights(source, Some(importance));
                scalar_start(&distinct, &distinct.sums_u, source.spec, Initialization::KMeans)
            }
        }
    }

    fn iterate(&self, source: Source<'_>, distinct: &Distinct, start_k: &[f64]) -> PaletteTrajectory {
        let Source { spec, execution, .. } = source;
        let rows = Rows::new(distinct, spec.half, spec.keep_zero);
        let gap = |centroids_k: &[f64]| gap::gap(&rows, centroids_k);
        let mut trajectory = repeat(spec, start_k, gap, |centroids_k, tau, pinned| {
            if rows.mass == 0.0 {
                return None;
            }
            Some(match spec.gradient {
                GradientMode::StraightThrough => Moved {
                    centroids_kd: hard::update(&rows, centroids_k, pinned),
                    log_mass_k: Vec::new(),
                },
                GradientMode::Unrolled | GradientMode::Implicit => {
                    update::update(&rows, centroids_k, tau, pinned, execution)
                }
            })
        });
        trajectory.occupied = (execution == Execution::Pool).then(|| Occupied::of(distinct));
        trajectory
    }

    fn assign(&self, source: Source<'_>, distinct: &Distinct, palette_k: &[f64], indices: &mut [u8]) {
        let half = source.spec.half;
        let nearest = hard::Nearest::new(palette_k);
        let mut table = histogram::zeroed::<u8>();
        for &key in &distinct.keys_u {
            table[key as usize] = nearest.cluster(half.value(key)) as u8;
        }
        let parts: Vec<_> = source.weights.chunks(PART).zip(indices.chunks_mut(PART)).collect();
        source.execution.map(parts, |(weights, indices)| {
            lookup::gather(half, weights, &table, indices)
        });
    }

    fn clustered(&self, source: Source<'_>, trajectory: &PaletteTrajectory, out: &mut [f32]) {
        let Source {
            weights,
            spec,
            execution,
        } = source;
        let keys_u = match &trajectory.occupied {
            Some(occupied) => occupied.keys(spec.half),
            None => count_weights(source, None).0.keys_u,
        };
        let clustered_u = clustered_values(trajectory, &keys_u, spec, execution);
        Tables::with_local(|tables| {
            tables.with_clustered(&keys_u, &clustered_u, |table| {
                let parts: Vec<_> = weights.chunks(PART).zip(out.chunks_mut(PART)).collect();
                execution.map(parts, |(weights, out)| lookup::gather(spec.half, weights, table, out));
            });
        });
    }

    fn backward(&self, source: Source<'_>, trajectory: &PaletteTrajectory, target: Target<'_>) {
        let Source {
            weights,
            spec,
            execution,
        } = source;
        if spec.gradient == GradientMode::StraightThrough {
            return hard::straight_through(source, target);
        }
        let (distinct, _) = count_weights(source, Some(target.upstream()));
        let gradient = gradient_values(&distinct, trajectory, spec, execution);
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
}

/// Writes the clustered value of each key that occurs among the weights, or is near one that does; of every finite key if that is not known.
pub(crate) fn clustered_table(trajectory: &PaletteTrajectory, spec: &Spec, execution: Execution, table: &mut [f32]) {
    let keys_u = match &trajectory.occupied {
        Some(occupied) => occupied.keys(spec.half),
        None => Occupied::ALL.keys(spec.half),
    };
    let clustered_u = clustered_values(trajectory, &keys_u, spec, execution);
    for (&key, clustered) in keys_u.iter().zip(Lanes::unpack(&clustered_u)) {
        table[usize::from(key)] = clustered as f32;
    }
}

/// Writes slope and shift of each key that occurs.
pub(crate) fn gradient_table(
    distinct: &Distinct,
    trajectory: &PaletteTrajectory,
    spec: &Spec,
    execution: Execution,
    table: &mut [lookup::SlopeShift],
) {
    if spec.gradient == GradientMode::StraightThrough {
        for &key in &distinct.keys_u {
            table[usize::from(key)] = [f32::from(u8::from(takes_part(key, spec.keep_zero))), 0.0];
        }
        return;
    }
    let gradient = gradient_values(distinct, trajectory, spec, execution);
    let pairs = Lanes::unpack(&gradient.slope_u).zip(Lanes::unpack(&gradient.shift_u));
    for (&key, (slope, shift)) in distinct.keys_u.iter().zip(pairs) {
        table[usize::from(key)] = [slope as f32, shift as f32];
    }
}

/// Slope and shift of the distinct values, of which the upstream gradients are summed.
fn gradient_values(
    distinct: &Distinct,
    trajectory: &PaletteTrajectory,
    spec: &Spec,
    execution: Execution,
) -> gradient::Gradient {
    let rows = Rows::new(distinct, spec.half, spec.keep_zero);
    let upstream_u = Rows::sums(distinct, spec.keep_zero);
    let mut gradient = gradient::through_repetitions(&rows, &upstream_u, trajectory, spec.gradient, execution);
    zero_where_kept(&distinct.keys_u, spec.keep_zero, &mut gradient.slope_u);
    zero_where_kept(&distinct.keys_u, spec.keep_zero, &mut gradient.shift_u);
    gradient
}

/// Counts weights, and sums other numbers by their values.
fn count_weights(source: Source<'_>, addends: Option<&[f32]>) -> (Distinct, u32) {
    match source.execution {
        Execution::Here => count(source.spec.half, source.weights, addends),
        Execution::Pool => count_parallel(source.spec.half, source.weights, addends),
    }
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

fn zero_where_kept(keys_u: &[u16], keep_zero: KeepZero, numbers_u: &mut [Lanes]) {
    if keep_zero == KeepZero::Exact {
        for (i, _) in keys_u.iter().enumerate().filter(|(_, &key)| is_zero(key)) {
            numbers_u[i / crate::lanes::LANES].0[i % crate::lanes::LANES] = 0.0;
        }
    }
}
