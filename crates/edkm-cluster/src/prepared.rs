//! Weights made ready for clustering: one pass that rounds, checks and counts.

use xxhash_rust::xxh3::Xxh3;

use crate::init::exact::exact;
use crate::parallel::{execution, for_palettes, Execution};
use crate::scalar::histogram::Distinct;
use crate::scalar::rows::takes_part;
use crate::trajectory::PaletteTrajectory;
use crate::{scalar, Centroids, ClusterError, KeepZero, MatrixShape, Spec, Trajectory};

/// A weight matrix rounded to 16 bits, and what clustering needs of it: its distinct values and how often each occurs.
///
/// Memory: 6 bytes for each distinct 16-bit value of each palette (for one palette of a large matrix some ten thousand values;
/// at most 384 KiB for a palette).
#[derive(Debug, Clone)]
pub struct Prepared<'w> {
    weights: &'w [f32],
    shape: MatrixShape,
    spec: Spec,
    palettes: Vec<Distinct>,
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
        if spec.dim() > 1 {
            return Err(ClusterError::VectorLength { len: spec.dim() });
        }
        let len = spec.grouping.weights_per_palette(shape);
        let execution = execution(weights.len().div_ceil(len), len);
        let palettes: Vec<_> = weights.chunks(len).enumerate().collect();
        let palettes = for_palettes(palettes, |(i, palette)| {
            scalar::prepare(palette, spec.half, execution).map_err(|at| unusable(i * len + at, palette[at], spec))
        });
        let palettes = palettes.into_iter().collect::<Result<_, _>>()?;
        Ok(Prepared {
            weights,
            shape,
            spec: *spec,
            palettes,
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

    /// A hash of all that the trajectory depends on besides its start: for each palette the multiset of 16-bit values, the shape and
    /// the settings. Equal for a weight that has not changed (in 16 bits), so that its trajectory can be used again.
    pub fn fingerprint(&self) -> u128 {
        let mut hash = Xxh3::new();
        let spec = format!("{:?} {:?}", self.shape, self.spec);
        hash.update(spec.as_bytes());
        let mut bytes = Vec::new();
        for distinct in &self.palettes {
            bytes.clear();
            bytes.extend((distinct.len() as u64).to_le_bytes());
            bytes.extend(distinct.keys_u.iter().flat_map(|key| key.to_le_bytes()));
            bytes.extend(distinct.counts_u.iter().flat_map(|count| count.to_le_bytes()));
            hash.update(&bytes);
        }
        hash.digest128()
    }

    /// Number of distinct 16-bit values, summed over palettes: the rows of the attention map that are computed.
    pub fn distinct_values(&self) -> usize {
        self.palettes.iter().map(Distinct::len).sum()
    }

    /// Centroids to start the first training step from: for each palette the k-means of the smallest squared error.
    ///
    /// With fewer distinct values than clusters, every value is a centroid, some of them several times.
    /// With [`KeepZero::Exact`], zero and the k-means of the other values with one cluster fewer.
    ///
    /// # Errors
    /// None for prepared weights.
    pub fn initial(&self) -> Result<Centroids, ClusterError> {
        let palettes = for_palettes(self.palettes.iter().collect(), |distinct| {
            let masses: Vec<f64> = distinct.counts_u.iter().map(|&count| count.into()).collect();
            self.initial_palette(distinct, &masses)
        });
        Ok(Centroids::from_palettes(palettes, &self.spec))
    }

    /// As [`initial`](Prepared::initial), with the squared error of each weight multiplied by its importance (for instance the mean of its
    /// squared gradients, SqueezeLLM, arXiv 2306.07629).
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
        let len = self.spec.grouping.weights_per_palette(self.shape);
        let execution = self.execution();
        let palettes: Vec<_> = self.weights.chunks(len).zip(importance.chunks(len)).collect();
        let palettes = for_palettes(palettes, |(weights, importance)| {
            let (distinct, _) = scalar::count_weights(self.spec.half, weights, Some(importance), execution);
            self.initial_palette(&distinct, &distinct.sums_u)
        });
        Ok(Centroids::from_palettes(palettes, &self.spec))
    }

    fn initial_palette(&self, distinct: &Distinct, masses_u: &[f64]) -> Vec<f64> {
        let (keep_zero, clusters) = (self.spec.keep_zero, self.spec.clusters());
        let taking_part = || {
            distinct
                .keys_u
                .iter()
                .zip(masses_u)
                .filter(|(&key, _)| takes_part(key, keep_zero))
        };
        let values: Vec<f64> = taking_part().map(|(&key, _)| self.spec.half.value(key)).collect();
        let masses: Vec<f64> = taking_part().map(|(_, &mass)| mass).collect();
        match keep_zero {
            KeepZero::Free => exact(&values, &masses, clusters),
            KeepZero::Exact if values.is_empty() => vec![0.0; clusters],
            KeepZero::Exact => {
                let mut centroids = exact(&values, &masses, clusters - 1);
                centroids.insert(centroids.partition_point(|&c| c < 0.0), 0.0);
                centroids
            }
        }
    }

    /// Repeats assignment and update, from centroids that are constants of the gradient.
    ///
    /// # Errors
    /// [`ClusterError::Centroids`] when `start` has other palettes than the matrix.
    pub fn iterate(&self, start: &Centroids) -> Result<Trajectory, ClusterError> {
        start.check_for(self.shape, &self.spec)?;
        let execution = self.execution();
        let palettes = for_palettes(self.palettes.iter().enumerate().collect(), |(i, distinct)| {
            scalar::iterate(distinct, start.group_f64(i).to_vec(), &self.spec, execution)
        });
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

    /// The hard assignment: for each weight the index of the nearest centroid in its palette; of equally near ones the first.
    ///
    /// # Errors
    /// [`ClusterError::Centroids`] when `centroids` has other palettes than the matrix.
    pub fn assign(&self, centroids: &Centroids) -> Result<Vec<u8>, ClusterError> {
        centroids.check_for(self.shape, &self.spec)?;
        let len = self.spec.grouping.weights_per_palette(self.shape);
        let execution = self.execution();
        let mut indices = vec![0; self.shape.len()];
        let work: Vec<_> = self
            .palettes
            .iter()
            .zip(self.weights.chunks(len))
            .zip(indices.chunks_mut(len))
            .enumerate()
            .collect();
        for_palettes(work, |(i, ((distinct, weights), indices))| {
            // The numbers that a compressed model holds.
            let palette: Vec<f64> = centroids.group(i).iter().map(|&c| c.into()).collect();
            scalar::assign(distinct, &palette, weights, self.spec.half, execution, indices);
        });
        Ok(indices)
    }

    fn execution(&self) -> Execution {
        execution(self.palettes.len(), self.spec.grouping.weights_per_palette(self.shape))
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
