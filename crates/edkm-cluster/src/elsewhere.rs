//! Scalars that another device clusters by itself: what it begins with, and the trajectory of what it found.
//!
//! [`Counted`](crate::Counted) is for devices that count and look up but leave what lies between to the host.

use crate::fingerprint::{digest_of, of_digest, of_settings};
use crate::prepared::trajectory_of;
use crate::repeat::start_of;
use crate::shape::check_length;
use crate::trajectory::PaletteTrajectory;
use crate::{Centroids, ClusterError, GradientMode, MatrixShape, Spec, Temperature, Trajectory};

/// Where the repetitions of one palette begin.
#[derive(Debug, Clone, PartialEq)]
pub struct PaletteStart {
    /// The temperature, which may be relative to the gap between the centroids.
    pub temperature: Temperature,
    /// They end where no centroid moved by as much of the gap.
    pub tolerance: f64,
    /// The cluster that stays where it is, at zero.
    pub pinned: Option<usize>,
    /// `[K]`
    pub centroids: Vec<f64>,
}

/// What became of one palette's centroids in at least one repetition.
#[derive(Debug, Clone, PartialEq)]
pub struct PaletteWay {
    /// The temperature, in squared units of the weights.
    pub tau: f64,
    /// The cluster that stayed at zero.
    pub pinned: Option<usize>,
    /// Before and after each of t repetitions, `[t + 1, K]`.
    pub centroids_tk: Vec<f64>,
    /// log2 of each cluster's mass in each repetition, `[t, K]`.
    pub log_mass_tk: Vec<f64>,
}

/// Where the repetitions of all palettes begin. With n_k weights nearest to centroid k and d_k to its nearest other centroid, their gap is sum_k n_k d_k / sum_k n_k: see
/// [`Temperature::Relative`].
///
/// # Errors
/// [`ClusterError::Centroids`] when `start` has other palettes than the matrix, [`ClusterError::CountedVectors`] for vectors.
pub fn palette_starts(shape: MatrixShape, spec: &Spec, start: &Centroids) -> Result<Vec<PaletteStart>, ClusterError> {
    scalars(spec)?;
    start.check_for(shape, spec)?;
    let palettes = 0..spec.grouping.palettes(shape);
    Ok(palettes
        .map(|palette| {
            let (pinned, centroids) = start_of(spec, start.group_f64(palette));
            PaletteStart {
                temperature: spec.temperature,
                tolerance: spec.tolerance,
                pinned,
                centroids,
            }
        })
        .collect())
}

/// What fingerprints of matrices that are read alike (of one shape, half type, grouping and so on) have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprints {
    of_settings: u128,
}

impl Fingerprints {
    /// Those of scalars.
    pub fn new(shape: MatrixShape, spec: &Spec) -> Self {
        Self {
            of_settings: of_settings(shape, spec),
        }
    }

    /// The fingerprint of a matrix whose digest was taken elsewhere: that of [`Prepared::fingerprint`](crate::Prepared::fingerprint).
    ///
    /// With m the mixing function of SplitMix64 and x = m((palette << 16 | key) + 0x9e3779b97f4a7c15), the digest is the sums of m(x ^ count) and of
    /// m(x + count 0xd6e8feb86659fd93) over all keys that occur in each palette, modulo 2^64.
    pub fn of_digest(self, digest: [u64; 2]) -> u128 {
        of_digest(self.of_settings, digest)
    }

    /// The digest of the matrix that has this fingerprint.
    pub fn digest_of(self, fingerprint: u128) -> [u64; 2] {
        digest_of(self.of_settings, fingerprint)
    }
}

impl Trajectory {
    /// The trajectory of palettes that were iterated elsewhere from `start`.
    ///
    /// # Errors
    /// As [`palette_starts`]; other numbers of palettes, clusters or repetitions; a gradient that is not [`GradientMode::Unrolled`].
    pub fn from_ways(
        shape: MatrixShape,
        spec: &Spec,
        start: &Centroids,
        ways: Vec<PaletteWay>,
    ) -> Result<Self, ClusterError> {
        scalars(spec)?;
        start.check_for(shape, spec)?;
        if spec.gradient != GradientMode::Unrolled {
            return Err(ClusterError::OtherTrajectory { what: "gradient mode" });
        }
        check_length("palettes iterated elsewhere", spec.grouping.palettes(shape), ways.len())?;
        let palettes = ways.into_iter().map(|way| {
            let clusters = spec.clusters();
            let done = way.log_mass_tk.len() / clusters;
            check_length(
                "masses of whole repetitions",
                done.max(1) * clusters,
                way.log_mass_tk.len(),
            )?;
            check_length(
                "centroids of each repetition",
                (done + 1) * clusters,
                way.centroids_tk.len(),
            )?;
            Ok(PaletteTrajectory {
                done,
                centroids_tkd: way.centroids_tk,
                log_mass_tk: way.log_mass_tk,
                ..PaletteTrajectory::new(way.tau, way.pinned, Vec::new(), clusters)
            })
        });
        let palettes = palettes.collect::<Result<Vec<_>, ClusterError>>()?;
        Ok(trajectory_of(shape, spec, start, palettes))
    }

    /// The way of each palette, for another device to look up and to differentiate; none where that needs what this device alone does: vectors, a
    /// gradient that is not [`GradientMode::Unrolled`], a palette that was not iterated.
    pub fn ways(&self) -> Option<Vec<PaletteWay>> {
        if self.spec.dim() != 1 || self.spec.gradient != GradientMode::Unrolled {
            return None;
        }
        self.palettes
            .iter()
            .map(|palette| {
                (palette.done > 0).then(|| PaletteWay {
                    tau: palette.tau,
                    pinned: palette.pinned,
                    centroids_tk: palette.centroids_tkd.clone(),
                    log_mass_tk: palette.log_mass_tk.clone(),
                })
            })
            .collect()
    }
}

fn scalars(spec: &Spec) -> Result<(), ClusterError> {
    match spec.dim() {
        1 => Ok(()),
        dim => Err(ClusterError::CountedVectors { dim }),
    }
}
