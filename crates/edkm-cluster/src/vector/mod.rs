//! Vector palettes: d consecutive weights of a row are clustered as one.
//!
//! The 16-bit keys of vectors do not repeat, so nothing is shared between vectors. Every pass goes over the vectors in tiles, makes their rows
//! of the attention map eight at a time, uses them at once and forgets them; clusters whose terms cannot matter need no exponential.
//! Forward takes T + 1 such passes for T repetitions, backward as many.
//!
//! Memory: for each thread a tile of 32,768 vectors, twice; for each tile of the palette (1 + d) K sums; for a pass K^2 (1 + d) factors of the
//! exponents. Nothing of the size of the matrix.

mod attention;
pub(crate) mod cells;
mod gradient;
pub(crate) mod hard;
mod output;
mod palette;
mod starved;
pub(crate) mod tile;
mod update;

use crate::engine::{Engine, Source};
use crate::init::{vector_start, Start};
use crate::repeat::{repeat, Moved};
use crate::scalar::gradient::Repetition as FlatRepetition;
use crate::scalar::histogram::Distinct;
use crate::target::Target;
use crate::temperature::mean_nearest_distance;
use crate::trajectory::PaletteTrajectory;
use crate::vector::attention::{sweep, Attention};
use crate::vector::gradient::Repetition;
use crate::vector::output::Mean;
use crate::vector::palette::Palette;
use crate::GradientMode;

/// Clustering of vectors of `D` weights.
pub(crate) struct Vectors<const D: usize>;

impl<const D: usize> Engine for Vectors<D> {
    fn count(&self, source: Source<'_>) -> Result<Distinct, usize> {
        const PART: usize = 1 << 16;
        let parts: Vec<_> = source.weights.chunks(PART).enumerate().collect();
        let unusable = |(i, part): (usize, &[f32])| source.spec.half.first_unusable(part).map(|at| i * PART + at);
        match source.execution.map(parts, unusable).into_iter().flatten().next() {
            None => Ok(Distinct::default()),
            Some(at) => Err(at),
        }
    }

    fn rows(&self, source: Source<'_>, _: &Distinct) -> usize {
        Palette::<D>(source).number()
    }

    fn start(&self, source: Source<'_>, _: &Distinct, start: Start<'_>) -> Vec<f64> {
        let importance = match start {
            Start::Alike(_) => None,
            Start::Weighted(importance) => Some(importance),
        };
        vector_start::<D>(source.weights, importance, source.spec)
    }

    fn iterate(&self, source: Source<'_>, _: &Distinct, start_kd: &[f64]) -> PaletteTrajectory {
        let palette = Palette::<D>(source);
        let gap = |centroids_kd: &[f64]| mean_nearest_distance(centroids_kd, source.spec.dim());
        repeat(source.spec, start_kd, gap, |centroids_kd, tau, pinned| {
            let centroids_kd = in_vectors(centroids_kd);
            match source.spec.gradient {
                GradientMode::StraightThrough => hard::update(&palette, &centroids_kd, pinned).map(|next_kd| Moved {
                    centroids_kd: next_kd.into_flattened(),
                    log_mass_k: Vec::new(),
                }),
                GradientMode::Unrolled | GradientMode::Implicit => update::update(&palette, &centroids_kd, tau, pinned)
                    .map(|u| Moved {
                        centroids_kd: u.centroids_kd.into_flattened(),
                        log_mass_k: u.log_mass_k,
                    }),
            }
        })
    }

    fn assign(&self, source: Source<'_>, _: &Distinct, palette_kd: &[f64], indices: &mut [u8]) {
        hard::assign(&Palette::<D>(source), &in_vectors(palette_kd), indices);
    }

    fn clustered(&self, source: Source<'_>, trajectory: &PaletteTrajectory, out: &mut [f32]) {
        let palette = Palette::<D>(source);
        let Some(last) = repetitions::<D>(trajectory).pop() else {
            return hard::clustered(&palette, &in_vectors(trajectory.step(0)), out);
        };
        let cells = palette.cells(&last.before_kd);
        let attention = Attention::new(&cells, &last.before_kd, trajectory.tau);
        palette.map_tiles_to(&cells, Target::InPlace(out), |target, tile| {
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

    fn backward(&self, source: Source<'_>, trajectory: &PaletteTrajectory, target: Target<'_>) {
        let palette = Palette::<D>(source);
        let repetitions = repetitions(trajectory);
        if repetitions.is_empty() {
            return hard::straight_through(&palette, target);
        }
        let (tau, pinned) = (trajectory.tau, trajectory.pinned);
        gradient::through_repetitions(&palette, &repetitions, tau, pinned, source.spec.gradient, target);
    }
}

fn repetitions<const D: usize>(trajectory: &PaletteTrajectory) -> Vec<Repetition<D>> {
    let in_vectors = |repetition: FlatRepetition<'_>| Repetition {
        before_kd: in_vectors(repetition.before_k),
        after_kd: in_vectors(repetition.after_k),
        log_mass_k: repetition.log_mass_k.to_vec(),
    };
    trajectory.repetitions().map(in_vectors).collect()
}

/// Flat numbers as vectors.
fn in_vectors<const D: usize>(flat: &[f64]) -> Vec<[f64; D]> {
    flat.chunks_exact(D).map(|c| std::array::from_fn(|j| c[j])).collect()
}
