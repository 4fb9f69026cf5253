//! Weights made ready for clustering: one pass that rounds, checks and counts.

use crate::fingerprint::fingerprint;
use crate::init::{scalar_start, vector_start};
use crate::parallel::{execution, for_palettes, Execution};
use crate::scalar::histogram::Distinct;
use crate::trajectory::PaletteTrajectory;
use crate::vector::{self, with_dim, Palette};
use crate::{scalar, Centroids, ClusterError, MatrixShape, Spec, Trajectory, VectorLen};

/// A weight matrix that has been checked, and, for scalars, its distinct 16-bit values and how often each occurs.
///
/// Memory: for scalars 6 bytes for each distinct value of each palette (some thousand values for one palette of a large matrix;
/// at most 384 KiB for a palette); for vectors none.
#[derive(Debug, Clone)]
pub struct Prepared<'w> {
    weights: &'w [f32],
    shape: MatrixShape,
    spec: Spec,
    /// By palette; empty for vectors.
    distinct: Vec<Distinct>,
}

impl<'w> Prepared<'w> {
    /// Rounds, checks and counts the weights of a row-major matrix, in one pass.
    ///
    /// # Errors
    /// For settings or a shape that cannot be used, a slice of another length, and a weight that is NaN or infinite
    /// ([`ClusterError::NonFinite`]) or rounds to infinity ([`ClusterError::OutOfRange`]): the first such weight is named.
    pub fn new(weights: &'w [f32], shape: MatrixShape, spec: &Spec) -> Result<Self, ClusterError> {
        shape.check("weights", weights)?;
        spec.check_for(shape)?;
        let len = spec.grouping.weights_per_palette(shape);
        let execution = execution(spec.grouping.palettes(shape), len);
        let palettes: Vec<_> = weights.chunks(len).enumerate().collect();
        let palettes = for_palettes(palettes, |(i, palette)| {
            let distinct = match spec.vector {
                VectorLen::One => scalar::prepare(palette, spec.half, execution).map(Some),
                _ => vector::first_unusable(palette, spec, execution).map_or(Ok(None), Err),
            };
            distinct.map_err(|at| unusable(i * len + at, palette[at], spec))
        });
        let palettes = palettes.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(Prepared {
            weights,
            shape,
            spec: *spec,
            distinct: palettes.into_iter().flatten().collect(),
        })
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// The settings.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// A hash of all that the trajectory depends on besides its start: the rounded weights of each palette (for scalars without their
    /// order), the shape and the settings. Equal for a weight that has not changed in 16 bits, so that its trajectory can be used again.
    pub fn fingerprint(&self) -> u128 {
        fingerprint(self.weights, self.shape, &self.spec, &self.distinct)
    }

    /// Rows of the attention map that are computed: for scalars the distinct 16-bit values of each palette, for vectors all vectors.
    pub fn distinct_values(&self) -> usize {
        match self.spec.vector {
            VectorLen::One => self.distinct.iter().map(Distinct::len).sum(),
            vector => self.weights.len() / vector.get(),
        }
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
        let palettes = match self.spec.vector {
            VectorLen::One => for_palettes(self.distinct.iter().collect(), |distinct| {
                let masses: Vec<f64> = distinct.counts_u.iter().map(|&count| count.into()).collect();
                scalar_start(distinct, &masses, &self.spec)
            }),
            _ => for_palettes(self.weights.chunks(self.weights_per_palette()).collect(), |weights| {
                with_dim!(self.spec, vector_start, weights, None, &self.spec)
            }),
        };
        Ok(Centroids::from_palettes(palettes, &self.spec))
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
        let len = self.weights_per_palette();
        let execution = self.execution();
        let palettes: Vec<_> = self.weights.chunks(len).zip(importance.chunks(len)).collect();
        let palettes = for_palettes(palettes, |(weights, importance)| match self.spec.vector {
            VectorLen::One => {
                let (distinct, _) = scalar::count_weights(self.spec.half, weights, Some(importance), execution);
                scalar_start(&distinct, &distinct.sums_u, &self.spec)
            }
            _ => with_dim!(self.spec, vector_start, weights, Some(importance), &self.spec),
        });
        Ok(Centroids::from_palettes(palettes, &self.spec))
    }

    /// Repeats assignment and update, from centroids that are constants of the gradient.
    ///
    /// # Errors
    /// [`ClusterError::Centroids`] when `start` has other palettes than the matrix.
    pub fn iterate(&self, start: &Centroids) -> Result<Trajectory, ClusterError> {
        start.check_for(self.shape, &self.spec)?;
        let execution = self.execution();
        let palettes = match self.spec.vector {
            VectorLen::One => for_palettes(self.distinct.iter().enumerate().collect(), |(i, distinct)| {
                scalar::iterate(distinct, start.group_f64(i).to_vec(), &self.spec, execution)
            }),
            _ => for_palettes(
                self.weights.chunks(self.weights_per_palette()).enumerate().collect(),
                |(i, weights)| {
                    with_dim!(
                        self.spec,
                        vector::iterate,
                        weights,
                        start.group_f64(i),
                        &self.spec,
                        execution
                    )
                },
            ),
        };
        let last = palettes
            .iter()
            .map(|palette: &PaletteTrajectory| palette.step(palette.len()).to_vec());
        Ok(Trajectory {
            spec: self.spec,
            shape: self.shape,
            start: start.clone(),
            last: Centroids::from_palettes(last, &self.spec),
            palettes,
        })
    }

    /// The hard assignment: for each vector (with scalars, each weight) the index of the nearest centroid in its palette; of equally near ones
    /// the first.
    ///
    /// # Errors
    /// [`ClusterError::Centroids`] when `centroids` has other palettes than the matrix.
    pub fn assign(&self, centroids: &Centroids) -> Result<Vec<u8>, ClusterError> {
        centroids.check_for(self.shape, &self.spec)?;
        let len = self.weights_per_palette();
        let execution = self.execution();
        let mut indices = vec![0; self.shape.len() / self.spec.dim()];
        let work: Vec<_> = self
            .weights
            .chunks(len)
            .zip(indices.chunks_mut(len / self.spec.dim()))
            .enumerate()
            .collect();
        for_palettes(work, |(i, (weights, indices))| {
            // The numbers that a compressed model holds.
            let palette: Vec<f64> = centroids.group(i).iter().map(|&c| c.into()).collect();
            match self.spec.vector {
                VectorLen::One => {
                    scalar::assign(&self.distinct[i], &palette, weights, self.spec.half, execution, indices);
                }
                _ => with_dim!(
                    self.spec,
                    assign_vectors,
                    weights,
                    &palette,
                    &self.spec,
                    execution,
                    indices
                ),
            }
        });
        Ok(indices)
    }

    fn weights_per_palette(&self) -> usize {
        self.spec.grouping.weights_per_palette(self.shape)
    }

    fn execution(&self) -> Execution {
        execution(self.spec.grouping.palettes(self.shape), self.weights_per_palette())
    }
}

fn assign_vectors<const D: usize>(
    weights: &[f32],
    palette: &[f64],
    spec: &Spec,
    execution: Execution,
    indices: &mut [u8],
) {
    vector::hard::assign::<D>(
        &Palette {
            weights,
            spec,
            execution,
        },
        &vector::in_vectors(palette),
        indices,
    );
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
