//! Scalars that another device holds: clustering from how often each 16-bit value occurs, and tables by value for that device to look up.
//!
//! The weights are passed over where they are: to count, to sum gradients by value, to look up. All that lies between is here, on tables of
//! 65,536 entries, with the results of [`Prepared`](crate::Prepared) and [`Trajectory::backward`].

use crate::engine::{engine, Source};
use crate::fingerprint::fingerprint;
use crate::half_key::{from_rank, KEYS};
use crate::init::Initialization;
use crate::parallel::{execution, for_palettes, Execution};
use crate::prepared::{begun_anew, first_palettes, trajectory_of};
use crate::scalar::histogram::Distinct;
use crate::scalar::{self, Occupied};
use crate::shape::check_length;
use crate::trajectory::PaletteTrajectory;
use crate::{Centroids, ClusterError, MatrixShape, Spec, Trajectory};

/// How often each 16-bit value occurs among the weights of one palette.
#[derive(Debug, Clone, Copy)]
pub struct KeyCounts<'c> {
    /// By the bits of the value, `[65536]`.
    pub counts: &'c [u32],
    /// The largest magnitude of a weight before it was rounded, as the bits of an f32 without its sign: above those of infinity for NaN.
    pub magnitude_bits: u32,
}

/// A weight matrix that is known by how often each 16-bit value occurs in each palette.
///
/// Memory: 6 bytes for each distinct value of each palette.
#[derive(Debug, Clone)]
pub struct Counted {
    shape: MatrixShape,
    spec: Spec,
    palettes: Vec<Distinct>,
}

impl Counted {
    /// The matrix with these counts, one for each palette in the order of the rows; none if a weight is not finite or rounds to infinity:
    /// [`Prepared::new`](crate::Prepared::new) on the weights names it.
    ///
    /// # Errors
    /// For settings or a shape that cannot be used, vectors, and counts that are not those of so many weights.
    pub fn new(shape: MatrixShape, spec: &Spec, palettes: &[KeyCounts<'_>]) -> Result<Option<Self>, ClusterError> {
        spec.check_for(shape)?;
        if spec.dim() != 1 {
            return Err(ClusterError::CountedVectors { dim: spec.dim() });
        }
        check_length("counted palettes", spec.grouping.palettes(shape), palettes.len())?;
        if palettes
            .iter()
            .any(|palette| palette.magnitude_bits >= spec.half.first_unusable_bits())
        {
            return Ok(None);
        }
        let mut counted = Counted {
            shape,
            spec: *spec,
            palettes: Vec::with_capacity(palettes.len()),
        };
        for (palette, KeyCounts { counts, .. }) in palettes.iter().enumerate() {
            check_length("counts by value", KEYS, counts.len())?;
            let weights: u64 = counts.iter().map(|&count| u64::from(count)).sum();
            let expected = spec.grouping.weights_of(shape, palette).len();
            check_length("counted weights", expected, weights as usize)?;
            counted.palettes.push(distinct(counts, None));
        }
        Ok(Some(counted))
    }

    /// The settings.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// As [`Prepared::fingerprint`](crate::Prepared::fingerprint), with the same result for the same weights.
    pub fn fingerprint(&self) -> u128 {
        fingerprint(&[], self.shape, &self.spec, &self.palettes)
    }

    /// As [`Prepared::initial`](crate::Prepared::initial), with the same result for the same weights.
    pub fn initial(&self) -> Centroids {
        first_palettes(self.counted_sources(), &self.spec, Initialization::KMeans)
    }

    /// As [`Prepared::begun_anew`](crate::Prepared::begun_anew), with the same result for the same weights.
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

    /// As [`Prepared::iterate`](crate::Prepared::iterate), with the same result for the same weights.
    ///
    /// # Errors
    /// [`ClusterError::Centroids`] when `start` has other palettes than the matrix.
    pub fn iterate(&self, start: &Centroids) -> Result<Trajectory, ClusterError> {
        let _span = tracing::trace_span!("iterate").entered();
        start.check_for(self.shape, &self.spec)?;
        let palettes = for_palettes(self.palettes.iter().enumerate().collect(), |(i, distinct)| {
            let mut palette = engine(self.spec.vector).iterate(self.source(), distinct, start.group_f64(i));
            // there are no weights to count again when the table is made
            palette.occupied.get_or_insert_with(|| Occupied::of(distinct));
            palette
        });
        Ok(trajectory_of(self.shape, &self.spec, start, palettes))
    }

    /// A palette's weights, which are elsewhere: what is asked of an engine here needs their counts alone.
    fn source(&self) -> Source<'_> {
        Source {
            weights: &[],
            spec: &self.spec,
            execution: execution_for(self.shape, &self.spec),
        }
    }

    fn counted_sources(&self) -> Vec<(Source<'_>, &Distinct)> {
        self.palettes.iter().map(|distinct| (self.source(), distinct)).collect()
    }
}

impl Trajectory {
    /// W~ of each 16-bit value of a palette's weights, by its bits, `[65536]`; NaN for values that are not near any that occurs.
    ///
    /// # Errors
    /// Vectors, a table of another length, a palette that there is not.
    pub fn clustered_table(&self, palette: usize, table: &mut [f32]) -> Result<(), ClusterError> {
        check_length("table by value", KEYS, table.len())?;
        let trajectory = self.counted_palette(palette)?;
        table.fill(f32::NAN);
        scalar::clustered_table(trajectory, &self.spec, execution_for(self.shape, &self.spec), table);
        Ok(())
    }

    /// What dL/dW becomes of dL/dW~ for each 16-bit value of a palette's weights, by its bits: dL/dW = slope dL/dW~ + shift, `[65536]` pairs of slope
    /// and shift; NaN for values that do not occur.
    ///
    /// `counts`: as for [`Counted::new`]; `sums`: dL/dW~ summed over the weights of each value, `[65536]`.
    ///
    /// # Errors
    /// Vectors, slices of another length, a palette that there is not.
    pub fn gradient_table(
        &self,
        palette: usize,
        counts: &[u32],
        sums: &[f64],
        table: &mut [[f32; 2]],
    ) -> Result<(), ClusterError> {
        let _span = tracing::trace_span!("differentiate").entered();
        check_length("counts by value", KEYS, counts.len())?;
        check_length("sums by value", KEYS, sums.len())?;
        check_length("table by value", KEYS, table.len())?;
        let trajectory = self.counted_palette(palette)?;
        table.fill([f32::NAN; 2]);
        let execution = execution_for(self.shape, &self.spec);
        scalar::gradient_table(&distinct(counts, Some(sums)), trajectory, &self.spec, execution, table);
        Ok(())
    }

    fn counted_palette(&self, palette: usize) -> Result<&PaletteTrajectory, ClusterError> {
        if self.spec.dim() != 1 {
            return Err(ClusterError::CountedVectors { dim: self.spec.dim() });
        }
        let other = ClusterError::OtherTrajectory {
            what: "number of palettes",
        };
        self.palettes.get(palette).ok_or(other)
    }
}

fn execution_for(shape: MatrixShape, spec: &Spec) -> Execution {
    execution(spec.grouping.palettes(shape), spec.grouping.weights_per_palette(shape))
}

/// The values that occur.
fn distinct(counts: &[u32], sums: Option<&[f64]>) -> Distinct {
    let mut distinct = Distinct::default();
    for rank in 0..=u16::MAX {
        let key = from_rank(rank);
        let count = counts[usize::from(key)];
        if count > 0 {
            distinct.keys_u.push(key);
            distinct.counts_u.push(count);
            if let Some(sums) = sums {
                distinct.sums_u.push(sums[usize::from(key)]);
            }
        }
    }
    distinct
}
