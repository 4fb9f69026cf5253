//! The vectors of one palette, and how to go through them.

use std::ops::Range;

use crate::engine::Source;
use crate::target::Target;
use crate::vector::cells::Cells;
use crate::vector::tile::{Tile, TILE};

/// The weights of one palette, as vectors.
#[derive(Clone, Copy)]
pub(crate) struct Palette<'w, const D: usize>(pub(crate) Source<'w>);

impl<const D: usize> Palette<'_, D> {
    /// Number of vectors, kept zeros included.
    pub(crate) fn number(&self) -> usize {
        self.0.weights.len() / D
    }

    /// Cells for a pass with these centroids.
    pub(crate) fn cells(&self, centroids_kd: &[[f64; D]]) -> Cells<D> {
        Cells::new(centroids_kd, self.number())
    }

    /// Does something with each tile and the range of its weights. Results are in order.
    pub(crate) fn map_tiles<R: Send>(
        &self,
        cells: &Cells<D>,
        work: impl Fn(Range<usize>, &Tile<D>) -> R + Sync + Send,
    ) -> Vec<R> {
        let starts: Vec<usize> = (0..self.0.weights.len()).step_by(TILE * D).collect();
        self.0.execution.map(starts, |start| {
            let range = start..self.0.weights.len().min(start + TILE * D);
            work(range.clone(), &self.tile(range, cells))
        })
    }

    /// Does something with each tile and its part of a target. Results are in order.
    pub(crate) fn map_tiles_to<R: Send>(
        &self,
        cells: &Cells<D>,
        target: Target<'_>,
        work: impl Fn(Target<'_>, &Tile<D>) -> R + Sync + Send,
    ) -> Vec<R> {
        let parts: Vec<_> = target.split(TILE * D).into_iter().enumerate().collect();
        self.0.execution.map(parts, |(i, target)| {
            let start = i * TILE * D;
            work(
                target,
                &self.tile(start..self.0.weights.len().min(start + TILE * D), cells),
            )
        })
    }

    fn tile(&self, weights: Range<usize>, cells: &Cells<D>) -> Tile<D> {
        Tile::new(&self.0.weights[weights], self.0.spec.half, self.0.spec.keep_zero, cells)
    }
}
