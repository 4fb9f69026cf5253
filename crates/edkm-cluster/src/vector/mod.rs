//! Vector palettes: d consecutive weights of a row are clustered as one.
//!
//! The 16-bit keys of vectors do not repeat, so nothing is shared between vectors. Every pass goes over the vectors in tiles, makes their rows
//! of the attention map eight at a time, uses them at once and forgets them; clusters whose terms cannot matter need no exponential.
//! Forward takes T + 1 such passes for T repetitions, backward as many.
//!
//! Memory: for each thread a tile of 16,384 vectors, and for each tile of the palette (1 + d) K sums.

mod attention;
mod gradient;
pub(crate) mod hard;
mod output;
mod starved;
pub(crate) mod tile;
mod update;

use std::ops::Range;

use crate::parallel::Execution;
use crate::target::Target;
use crate::temperature::gap;
use crate::trajectory::PaletteTrajectory;
use crate::vector::attention::{sweep, Attention};
use crate::vector::gradient::Repetition;
use crate::vector::output::Mean;
use crate::vector::tile::{Grid, Tile, TILE};
use crate::{scalar, GradientMode, KeepZero, Spec};

/// Calls a function that is generic over the number of coordinates.
macro_rules! with_dim {
    ($spec:expr, $($function:ident)::+, $($argument:expr),*) => {
        match $spec.vector {
            $crate::VectorLen::One => $($function)::+::<1>($($argument),*),
            $crate::VectorLen::Two => $($function)::+::<2>($($argument),*),
            $crate::VectorLen::Four => $($function)::+::<4>($($argument),*),
            $crate::VectorLen::Eight => $($function)::+::<8>($($argument),*),
        }
    };
}
pub(crate) use with_dim;

/// The weights of one palette, and how to go through them.
#[derive(Clone, Copy)]
pub(crate) struct Palette<'w, const D: usize> {
    pub(crate) weights: &'w [f32],
    pub(crate) spec: &'w Spec,
    pub(crate) execution: Execution,
}

impl<const D: usize> Palette<'_, D> {
    /// Number of vectors, kept zeros included.
    fn number(&self) -> f64 {
        (self.weights.len() / D) as f64
    }

    fn tile(&self, weights: Range<usize>, grid: &Grid<D>) -> Tile<D> {
        Tile::new(&self.weights[weights], self.spec.half, self.spec.keep_zero, grid)
    }

    /// Does something with each tile and the range of its weights. Results are in order.
    fn map_tiles<R: Send>(
        &self,
        centroids_kd: &[[f64; D]],
        work: impl Fn(Range<usize>, &Tile<D>) -> R + Sync + Send,
    ) -> Vec<R> {
        let grid = Grid::over(centroids_kd);
        let starts: Vec<usize> = (0..self.weights.len()).step_by(TILE * D).collect();
        self.execution.map(starts, |start| {
            let range = start..self.weights.len().min(start + TILE * D);
            work(range.clone(), &self.tile(range, &grid))
        })
    }

    /// Does something with each tile and its part of a target. Results are in order.
    fn map_tiles_to<R: Send>(
        &self,
        centroids_kd: &[[f64; D]],
        target: Target<'_>,
        work: impl Fn(Target<'_>, &Tile<D>) -> R + Sync + Send,
    ) -> Vec<R> {
        let grid = Grid::over(centroids_kd);
        let parts: Vec<_> = target.split(TILE * D).into_iter().enumerate().collect();
        self.execution.map(parts, |(i, target)| {
            let start = i * TILE * D;
            work(
                target,
                &self.tile(start..self.weights.len().min(start + TILE * D), &grid),
            )
        })
    }
}

/// The position of a weight that does not round to a finite number, if there is one.
pub(crate) fn first_unusable(weights: &[f32], spec: &Spec, execution: Execution) -> Option<usize> {
    const PART: usize = 1 << 16;
    let parts: Vec<_> = weights.chunks(PART).enumerate().collect();
    let found = execution.map(parts, |(i, part)| {
        spec.half.first_unusable(part).map(|at| i * PART + at)
    });
    found.into_iter().flatten().next()
}

/// Repeats assignment and update from the given centroids, which become the start of the trajectory.
pub(crate) fn iterate<const D: usize>(
    weights: &[f32],
    start_kd: &[f64],
    spec: &Spec,
    execution: Execution,
) -> PaletteTrajectory {
    let palette = Palette::<D> {
        weights,
        spec,
        execution,
    };
    let mut centroids_kd = in_vectors::<D>(start_kd);
    let pinned = match spec.keep_zero {
        KeepZero::Free => None,
        KeepZero::Exact => {
            let squares = centroids_kd.iter().map(|c| c.iter().map(|x| x * x).sum::<f64>());
            let zero = squares.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).map(|(k, _)| k);
            zero.inspect(|&k| centroids_kd[k] = [0.0; D])
        }
    };
    let start_kd = centroids_kd.as_flattened();
    let gap = gap(start_kd, D);
    let tau = spec.temperature.tau(gap);
    let mut trajectory = PaletteTrajectory::new(tau, pinned, start_kd.to_vec(), spec.clusters());
    while trajectory.done < spec.iterations {
        let updated = match spec.gradient {
            GradientMode::StraightThrough => {
                hard::update(&palette, &centroids_kd, pinned).map(|next_kd| (next_kd, Vec::new()))
            }
            GradientMode::Unrolled | GradientMode::Implicit => {
                update::update(&palette, &centroids_kd, tau, pinned).map(|u| (u.centroids_kd, u.log_mass_k))
            }
        };
        // All vectors may be zeros that are kept.
        let Some((next_kd, log_mass_k)) = updated else {
            break;
        };
        trajectory.keep(spec.gradient, next_kd.as_flattened(), log_mass_k);
        let moves = next_kd.as_flattened().iter().zip(centroids_kd.as_flattened());
        let moved = moves.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        centroids_kd = next_kd;
        // Not `<=`: without a tolerance all repetitions are done, for the gradient runs through all of them.
        if moved < spec.tolerance * gap {
            break;
        }
    }
    trajectory
}

/// Writes clustered weights.
pub(crate) fn clustered<const D: usize>(
    trajectory: &PaletteTrajectory,
    weights: &[f32],
    spec: &Spec,
    execution: Execution,
    out: &mut [f32],
) {
    let palette = Palette::<D> {
        weights,
        spec,
        execution,
    };
    let Some(last) = repetitions::<D>(trajectory).pop() else {
        return hard::clustered(&palette, &in_vectors(trajectory.step(0)), out);
    };
    let attention = Attention::new(&last.before_kd, trajectory.tau);
    palette.map_tiles_to(&last.before_kd, Target::InPlace(out), |target, tile| {
        if let Target::InPlace(out) = target {
            sweep(
                &attention,
                tile,
                &mut Mean {
                    after_kd: &last.after_kd,
                    out,
                },
            );
        }
    });
}

/// Turns dL/dW~ into dL/dW.
pub(crate) fn backward<const D: usize>(
    trajectory: &PaletteTrajectory,
    weights: &[f32],
    spec: &Spec,
    execution: Execution,
    target: Target<'_>,
) {
    let palette = Palette::<D> {
        weights,
        spec,
        execution,
    };
    let repetitions = repetitions::<D>(trajectory);
    if repetitions.is_empty() {
        return hard::straight_through(&palette, target);
    }
    gradient::unrolled(&palette, &repetitions, trajectory.tau, trajectory.pinned, target);
}

fn repetitions<const D: usize>(trajectory: &PaletteTrajectory) -> Vec<Repetition<D>> {
    let in_vectors = |repetition: scalar::gradient::Repetition<'_>| Repetition {
        before_kd: in_vectors(repetition.before_k),
        after_kd: in_vectors(repetition.after_k),
        log_mass_k: repetition.log_mass_k.to_vec(),
    };
    trajectory.repetitions().map(in_vectors).collect()
}

/// Flat numbers as vectors.
pub(crate) fn in_vectors<const D: usize>(flat: &[f64]) -> Vec<[f64; D]> {
    flat.chunks_exact(D).map(|c| std::array::from_fn(|j| c[j])).collect()
}
