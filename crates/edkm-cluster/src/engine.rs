//! What scalars and vectors do differently, for one palette.

use crate::init::Start;
use crate::parallel::Execution;
use crate::scalar::histogram::Distinct;
use crate::scalar::Scalars;
use crate::target::Target;
use crate::trajectory::PaletteTrajectory;
use crate::vector::Vectors;
use crate::{Spec, VectorLen};

/// One palette's weights.
#[derive(Clone, Copy)]
pub(crate) struct Source<'w> {
    pub(crate) weights: &'w [f32],
    pub(crate) spec: &'w Spec,
    pub(crate) execution: Execution,
}

/// A way of clustering one palette.
pub(crate) trait Engine: Sync {
    /// Checks the weights and counts what the other operations need counted. The error is the position of a weight that does not round
    /// to a finite number.
    fn count(&self, source: Source<'_>) -> Result<Distinct, usize>;

    /// Rows of the attention map.
    fn rows(&self, source: Source<'_>, distinct: &Distinct) -> usize;

    /// Starting centroids `[K, d]` from the weights alone.
    fn start(&self, source: Source<'_>, distinct: &Distinct, start: Start<'_>) -> Vec<f64>;

    /// Repeats assignment and update from the given centroids `[K, d]`.
    fn iterate(&self, source: Source<'_>, distinct: &Distinct, start_kd: &[f64]) -> PaletteTrajectory;

    /// Writes the index of the centroid nearest to each vector.
    fn assign(&self, source: Source<'_>, distinct: &Distinct, palette_kd: &[f64], indices: &mut [u8]);

    /// Writes clustered weights.
    fn clustered(&self, source: Source<'_>, trajectory: &PaletteTrajectory, out: &mut [f32]);

    /// Turns dL/dW~ into dL/dW.
    fn backward(&self, source: Source<'_>, trajectory: &PaletteTrajectory, target: Target<'_>);
}

/// The engine for vectors of this length.
pub(crate) fn engine(vector: VectorLen) -> &'static dyn Engine {
    match vector {
        VectorLen::One => &Scalars,
        VectorLen::Two => &Vectors::<2>,
        VectorLen::Four => &Vectors::<4>,
        VectorLen::Eight => &Vectors::<8>,
    }
}
