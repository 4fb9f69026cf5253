//! Weights made ready for clustering: one pass that rounds, checks and counts.

use crate::engine::{engine, Engine, Source};
use crate::fingerprint::fingerprint;
use crate::init::Start;
use crate::parallel::{execution, for_palettes};
use crate::scalar::histogram::Distinct;
use crate::trajectory::PaletteTrajectory;
use crate::{Centroids, ClusterError, Initialization, MatrixShape, Spec, Trajectory, VectorLen};

/// A weight matrix that has been checked, and, for scalars, its distinct 16-bit values and how often each occurs.
///
/// Memory: for scalars 6 bytes for each distinct value of each palette (some thousand values for one palette of a large matrix;
/// at most 384 KiB for a palette); for vectors none.
#[derive(Debug, Clone)]
pub struct Prepared<'w> {
    weights: &'w [f32],
    shape: MatrixShape,
    spec: Spec,
    /// By palette; without values for vectors.
    palettes: Vec<Distinct>,
}

impl<'w> Prepared<'w> {
    /// Rounds, checks and counts the weights of a row-major matrix, in one pass.
    ///
    /// # Errors
    /// For settings or a shape that cannot be used, a slice of another length, and a weight that is NaN or infinite
    /// ([`ClusterError::NonFinite`]) or rounds to infinity ([`ClusterError::OutOfRange`]): the first such weight is named.
    pub fn new(weights: &'w [f32], shape: MatrixShape, spec: &Spec) -> Result<Self, ClusterError> {
        let _span = tracing::trace_span!("count").entered();
        shape.check("weights", weights)?;
        spec.check_for(shape)?;
        let mut prepared = Prepared {
            weights,
            shape,
            spec: *spec,
            palettes: Vec::new(),
        };
        let counted = for_palettes(prepared.sources().collect(), |source| prepared.engine().count(source));
        for (palette, distinct) in counted.into_iter().enumerate() {
            let in_matrix = |at| spec.grouping.weights_of(shape, palette).start + at;
            prepared
                .palettes
                .push(distinct.map_err(|at| unusable(in_matrix(at), weights[in_matrix(at)], spec))?);
        }
        Ok(prepared)
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// The settings.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// A hash of the rounded weights of each palette (for scalars without their order), with the shape and the settings that say which those are: equal for a weight that has
    /// not changed in 16 bits. Its trajectory follows from it, the start, and the other settings: bits, temperature, tolerance, repetitions, gradient.
    pub fn fingerprint(&self) -> u128 {
        fingerprint(self.weights, self.shape, &self.spec, &self.palettes)
    }

    /// Rows of the attention map that are computed: for scalars the distinct 16-bit values of each palette, for vectors all vectors.
    pub fn distinct_values(&self) -> usize {
        self.sources()
            .zip(&self.palettes)
            .map(|(source, distinct)| self.engine().rows(source, distinct))
            .sum()
    }

    /// Centroids to start the first training step from.
    ///
    /// For scalars the k-means with the smallest squared error, for each palette; for vectors k-means++ and Lloyd's algorithm on at most
    /// 65,536 vectors of it, drawn with the seed of the settings. With fewer distinct values than clusters, every value is a centroid,
    /// some of them several times. With [`KeepZero::Exact`](crate::KeepZero::Exact), zero, and the k-means of the others with one cluster fewer.
    ///
    /// # Errors
    /// None for prepared weights.
    pub fn initial(&self) -> Result<Centroids, ClusterError> {
        self.initial_by(Initialization::KMeans)
    }

    /// As [`initial`](Prepared::initial), in one of the ways there are.
    ///
    /// # Errors
    /// [`ClusterError::Setting`] for quantiles of vectors.
    pub fn initial_by(&self, initialization: Initialization) -> Result<Centroids, ClusterError> {
        if initialization == Initialization::Quantile && self.spec.vector != VectorLen::One {
            return Err(ClusterError::Setting {
                setting: "the vector length with a start from quantiles",
                value: self.spec.dim() as f64,
                needed: "1",
            });
        }
        Ok(first_palettes(self.counted_sources(), &self.spec, initialization))
    }

    /// `last`, with those palettes as [`initial`](Prepared::initial) has them for which `is_wanted` holds, of their number and that of the different 16-bit values
    /// of their weights (with vectors: of the vectors); `None` if it holds for none.
    ///
    /// # Errors
    /// [`ClusterError::Centroids`] when `last` has other palettes than the matrix.
    pub fn begun_anew(
        &self,
        last: &Centroids,
        is_wanted: &(dyn Fn(usize, usize) -> bool + Sync),
    ) -> Result<Option<Centroids>, ClusterError> {
        last.check_for(self.shape, &self.spec)?;
        Ok(begun_anew(self.counted_sources(), last, &self.spec, is_wanted))
    }

    /// As [`initial`](Prepared::initial), with the squared error of each weight multiplied by its importance (for instance the mean of its
    /// squared gradients, SqueezeLLM, arXiv 2306.07629); that of a vector by the mean importance of its weights.
    ///
    /// A palette in which every importance is zero is clustered as if they were equal.
    ///
    /// # Errors
    /// [`ClusterError::Length`] and [`ClusterError::Importance`].
    pub fn initial_weighted(&self, importance: &[f32]) -> Result<Centroids, ClusterError> {
        self.shape.check("importances", importance)?;
        if let Some(index) = importance.iter().position(|i| !(i.is_finite() && *i >= 0.0)) {
            return Err(ClusterError::Importance {
                index,
                value: importance[index],
            });
        }
        let importance = importance.chunks(self.weights_per_palette());
        let palettes: Vec<_> = self.sources().zip(&self.palettes).zip(importance).collect();
        let palettes = for_palettes(palettes, |((source, distinct), importance)| {
            self.engine().start(source, distinct, Start::Weighted(importance))
        });
        Ok(Centroids::from_palettes(palettes, &self.spec))
    }

    /// Repeats assignment and update, from centroids that are constants of the gradient.
    ///
    /// # Errors
    /// [`ClusterError::Centroids`] when `start` has other palettes than the matrix.
    pub fn iterate(&self, start: &Centroids) -> Result<Trajectory, ClusterError> {
        let _span = tracing::trace_span!("iterate").entered();
        start.check_for(self.shape, &self.spec)?;
        let palettes: Vec<_> = self.sources().zip(&self.palettes).enumerate().collect();
        let palettes = for_palettes(palettes, |(i, (source, distinct))| {
            self.engine().iterate(source, distinct, start.group_f64(i))
        });
        Ok(trajectory_of(self.shape, &self.spec, start, palettes))
    }

    /// The hard assignment: for each vector (with scalars, each weight) the index of the nearest centroid in its palette; of equally near ones
    /// the first.
    ///
    /// # Errors
    /// [`ClusterError::Centroids`] when `centroids` has other palettes than the matrix.
    pub fn assign(&self, centroids: &Centroids) -> Result<Vec<u8>, ClusterError> {
        centroids.check_for(self.shape, &self.spec)?;
        let dim = self.spec.dim();
        let mut indices = vec![0; self.shape.len() / dim];
        let work = self
            .sources()
            .zip(&self.palettes)
            .zip(indices.chunks_mut(self.weights_per_palette() / dim));
        for_palettes(work.enumerate().collect(), |(i, ((source, distinct), indices))| {
            // The numbers that a compressed model holds.
            let palette: Vec<f64> = centroids.group(i).iter().map(|&c| c.into()).collect();
            self.engine().assign(source, distinct, &palette, indices);
        });
        Ok(indices)
    }

    fn engine(&self) -> &'static dyn Engine {
        engine(self.spec.vector)
    }

    /// The weights by palette.
    fn sources(&self) -> impl Iterator<Item = Source<'_>> {
        let execution = execution(self.spec.grouping.palettes(self.shape), self.weights_per_palette());
        let source = move |weights| Source {
            weights,
            spec: &self.spec,
            execution,
        };
        self.weights.chunks(self.weights_per_palette()).map(source)
    }

    /// The same, each with its distinct values.
    fn counted_sources(&self) -> Vec<(Source<'_>, &Distinct)> {
        self.sources().zip(&self.palettes).collect()
    }

    fn weights_per_palette(&self) -> usize {
        self.spec.grouping.weights_per_palette(self.shape)
    }
}

/// [`Prepared::initial_by`], of palettes with their distinct values.
pub(crate) fn first_palettes(
    palettes: Vec<(Source<'_>, &Distinct)>,
    spec: &Spec,
    initialization: Initialization,
) -> Centroids {
    let first = for_palettes(palettes, |(source, distinct)| {
        engine(spec.vector).start(source, distinct, Start::Alike(initialization))
    });
    Centroids::from_palettes(first, spec)
}

/// [`Prepared::begun_anew`], of palettes with their distinct values.
pub(crate) fn begun_anew(
    palettes: Vec<(Source<'_>, &Distinct)>,
    last: &Centroids,
    spec: &Spec,
    is_wanted: &(dyn Fn(usize, usize) -> bool + Sync),
) -> Option<Centroids> {
    let engine = engine(spec.vector);
    let begun = for_palettes(
        palettes.into_iter().enumerate().collect(),
        |(palette, (source, distinct))| {
            is_wanted(palette, engine.rows(source, distinct))
                .then(|| engine.start(source, distinct, Start::Alike(Initialization::KMeans)))
        },
    );
    last.with_palettes(begun)
}

/// The trajectory of palettes that were iterated.
pub(crate) fn trajectory_of(
    shape: MatrixShape,
    spec: &Spec,
    start: &Centroids,
    palettes: Vec<PaletteTrajectory>,
) -> Trajectory {
    let last: Vec<_> = palettes
        .iter()
        .map(|palette| palette.step(palette.len()).to_vec())
        .collect();
    Trajectory {
        spec: *spec,
        shape,
        start: start.clone(),
        last: Centroids::from_palettes(last, spec),
        palettes,
    }
}

fn unusable(index: usize, value: f32, spec: &Spec) -> ClusterError {
    if value.is_finite() {
        ClusterError::OutOfRange {
            index,
            value,
            half: spec.half,
        }
    } else {
        ClusterError::NonFinite { index, value }
    }
}
