//! Centroids of all palettes of a matrix.

use std::cmp::Ordering;

use crate::shape::check_length;
use crate::{ClusterError, MatrixShape, Spec};

/// The centroids of every palette of a matrix, `[palettes, clusters, dim]`.
///
/// This is the state that lives from one training step to the next: a step starts from the centroids that the step before
/// ended with, and the palette of the compressed model is the last of them. What [`Trajectory::last`](crate::Trajectory::last) and
/// [`Prepared::initial`](crate::Prepared::initial) give are f32 numbers, so saving [`as_slice`](Centroids::as_slice) and restoring it with
/// [`from_vec`](Centroids::from_vec) continues a run exactly. A start of one's own may have the precision of f64
/// ([`from_f64`](Centroids::from_f64)); the repetitions run in f64 and use it.
///
/// Memory: 12 x palettes x clusters x dim bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Centroids {
    values: Vec<f64>,
    /// `values` rounded.
    palette: Vec<f32>,
    clusters: usize,
    dim: usize,
}

impl Centroids {
    /// Centroids from numbers `[palettes, clusters, dim]`.
    ///
    /// # Errors
    /// [`ClusterError::Length`] when the numbers do not fill whole palettes, [`ClusterError::CentroidNotFinite`] for NaN or infinity.
    pub fn from_vec(values: Vec<f32>, clusters: usize, dim: usize) -> Result<Self, ClusterError> {
        let wide = values.iter().map(|&v| v.into()).collect();
        Self::checked(Centroids {
            values: wide,
            palette: values,
            clusters,
            dim,
        })
    }

    /// Centroids from f64 numbers `[palettes, clusters, dim]`.
    ///
    /// # Errors
    /// As [`from_vec`](Centroids::from_vec); a number beyond f32 counts as infinite.
    pub fn from_f64(values: Vec<f64>, clusters: usize, dim: usize) -> Result<Self, ClusterError> {
        let palette = values.iter().map(|&v| v as f32).collect();
        Self::checked(Centroids {
            values,
            palette,
            clusters,
            dim,
        })
    }

    fn checked(self) -> Result<Self, ClusterError> {
        let palette = self.clusters.saturating_mul(self.dim);
        if palette == 0 {
            return Err(ClusterError::Length {
                what: "a palette's centroids",
                expected: 1,
                got: 0,
            });
        }
        let len = self.values.len();
        check_length(
            "centroids in whole palettes",
            len.next_multiple_of(palette).max(palette),
            len,
        )?;
        if let Some(i) = self.palette.iter().position(|v| !v.is_finite()) {
            return Err(ClusterError::CentroidNotFinite {
                palette: i / palette,
                cluster: i % palette / self.dim,
                value: self.values[i],
            });
        }
        Ok(self)
    }

    /// Number of palettes (groups of output channels).
    pub fn groups(&self) -> usize {
        self.values.len() / (self.clusters * self.dim)
    }

    /// Clusters of a palette.
    pub fn clusters(&self) -> usize {
        self.clusters
    }

    /// Coordinates of a centroid: 1 for scalars.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// One palette, `[clusters, dim]`, in f32.
    ///
    /// # Panics
    /// When `group` is not below [`groups`](Centroids::groups).
    pub fn group(&self, group: usize) -> &[f32] {
        &self.palette[self.range(group)]
    }

    /// One palette, `[clusters, dim]`, in f64.
    ///
    /// # Panics
    /// When `group` is not below [`groups`](Centroids::groups).
    pub fn group_f64(&self, group: usize) -> &[f64] {
        &self.values[self.range(group)]
    }

    /// How many different centroids a palette has.
    ///
    /// # Panics
    /// When `group` is not below [`groups`](Centroids::groups).
    pub fn distinct(&self, group: usize) -> usize {
        let palette = self.group_f64(group);
        // scalars are in order nearly always
        if self.dim == 1 && palette.windows(2).all(|pair| pair[0] < pair[1]) {
            return palette.len();
        }
        let mut centroids: Vec<&[f64]> = palette.chunks_exact(self.dim).collect();
        centroids.sort_unstable_by(|a, b| {
            let mut by_number = a.iter().zip(*b).map(|(a, b)| a.total_cmp(b));
            by_number.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        });
        centroids.dedup();
        centroids.len()
    }

    /// All numbers, `[palettes, clusters, dim]`, in f32.
    pub fn as_slice(&self) -> &[f32] {
        &self.palette
    }

    /// All numbers, `[palettes, clusters, dim]`, in f64.
    pub fn as_f64_slice(&self) -> &[f64] {
        &self.values
    }

    /// Gives the numbers back in f32.
    pub fn into_vec(self) -> Vec<f32> {
        self.palette
    }

    fn range(&self, group: usize) -> std::ops::Range<usize> {
        let len = self.clusters * self.dim;
        group * len..(group + 1) * len
    }

    /// Palettes computed in f64, rounded to f32.
    ///
    /// Centroids are weighted means of finite f32 weights, so rounding cannot make them infinite.
    pub(crate) fn from_palettes(palettes: impl IntoIterator<Item = Vec<f64>>, spec: &Spec) -> Self {
        let palette: Vec<f32> = palettes.into_iter().flatten().map(|c| c as f32).collect();
        let values = palette.iter().map(|&c| c.into()).collect();
        Centroids {
            values,
            palette,
            clusters: spec.clusters(),
            dim: spec.dim(),
        }
    }

    /// These, with the palettes that are given in place of theirs; `None` if none is.
    pub(crate) fn with_palettes(&self, palettes: Vec<Option<Vec<f64>>>) -> Option<Self> {
        palettes.iter().any(Option::is_some).then(|| {
            let palette = |(index, given): (usize, Option<Vec<f64>>)| match given {
                // as `from_palettes` has them
                Some(given) => given.into_iter().map(|c| (c as f32).into()).collect(),
                None => self.group_f64(index).to_vec(),
            };
            let values: Vec<f64> = palettes.into_iter().enumerate().flat_map(palette).collect();
            Centroids {
                palette: values.iter().map(|&c| c as f32).collect(),
                values,
                ..*self
            }
        })
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        12 * self.values.len()
    }

    pub(crate) fn check_for(&self, shape: MatrixShape, spec: &Spec) -> Result<(), ClusterError> {
        let palettes = spec.grouping.palettes(shape);
        if (self.groups(), self.clusters, self.dim) == (palettes, spec.clusters(), spec.dim()) {
            return Ok(());
        }
        Err(ClusterError::Centroids {
            palettes,
            clusters: spec.clusters(),
            dim: spec.dim(),
            got_palettes: self.groups(),
            got_clusters: self.clusters,
            got_dim: self.dim,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_palettes_of_finite_numbers_are_accepted() {
        let values = vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        let centroids = Centroids::from_vec(values.clone(), 2, 2).unwrap();
        assert_eq!((centroids.groups(), centroids.clusters(), centroids.dim()), (2, 2, 2));
        assert_eq!(centroids.group(1), [4.0, 5.0, 6.0, 7.0]);
        assert_eq!(centroids.as_slice(), values);
        let precise = Centroids::from_f64(vec![0.1; 4], 4, 1).unwrap();
        assert_eq!(
            (precise.group_f64(0), precise.group(0)),
            (&[0.1f64; 4][..], &[0.1f32; 4][..])
        );
        assert_eq!(precise.into_vec(), [0.1f32; 4]);
    }

    #[test]
    fn other_numbers_are_refused() {
        assert!(matches!(
            Centroids::from_vec(vec![0.0; 7], 2, 2),
            Err(ClusterError::Length {
                expected: 8,
                got: 7,
                ..
            })
        ));
        assert!(matches!(
            Centroids::from_vec(vec![], 2, 1),
            Err(ClusterError::Length {
                expected: 2,
                got: 0,
                ..
            })
        ));
        assert!(matches!(
            Centroids::from_vec(vec![], 0, 1),
            Err(ClusterError::Length { .. })
        ));
        assert_eq!(
            Centroids::from_vec(vec![0.0, 1.0, 2.0, f32::INFINITY], 2, 1),
            Err(ClusterError::CentroidNotFinite {
                palette: 1,
                cluster: 1,
                value: f64::INFINITY
            })
        );
        assert!(Centroids::from_f64(vec![1e300], 1, 1).is_err());
    }
}
