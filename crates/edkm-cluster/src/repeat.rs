//! The repetitions of assignment and update, whatever is assigned.

use crate::trajectory::PaletteTrajectory;
use crate::{KeepZero, Spec};

/// What a repetition makes of the centroids.
pub(crate) struct Moved {
    pub(crate) centroids_kd: Vec<f64>,
    /// log2 of each cluster's mass; empty for the hard assignment.
    pub(crate) log_mass_k: Vec<f64>,
}

/// Repeats `update` from the given centroids, `[K, d]`, which become the start of the trajectory, and whose gap `gap` finds.
///
/// `update` is given the centroids, the temperature and the cluster that stays zero; it answers `None` when there is nothing to cluster
/// (all weights may be zeros that are kept).
pub(crate) fn repeat(
    spec: &Spec,
    start_kd: &[f64],
    gap: impl FnOnce(&[f64]) -> f64,
    mut update: impl FnMut(&[f64], f64, Option<usize>) -> Option<Moved>,
) -> PaletteTrajectory {
    let (pinned, mut centroids_kd) = start_of(spec, start_kd);
    let gap = gap(&centroids_kd);
    let (tau, limit) = (spec.temperature.tau(gap), spec.tolerance * gap);
    let mut trajectory = PaletteTrajectory::new(tau, pinned, centroids_kd.clone(), spec.clusters());
    while trajectory.done < spec.iterations {
        let Some(moved) = update(&centroids_kd, tau, pinned) else {
            break;
        };
        let largest = moved
            .centroids_kd
            .iter()
            .zip(&centroids_kd)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        centroids_kd.copy_from_slice(&moved.centroids_kd);
        trajectory.keep(spec.gradient, moved);
        // Not `<=`: without a tolerance all repetitions are done, for the gradient runs through all of them.
        if largest < limit {
            break;
        }
    }
    trajectory
}

/// Where the repetitions begin: the cluster that stays zero, and the centroids `[K, d]` from these.
pub(crate) fn start_of(spec: &Spec, start_kd: &[f64]) -> (Option<usize>, Vec<f64>) {
    let mut centroids = start_kd.to_vec();
    let pinned = match spec.keep_zero {
        KeepZero::Free => None,
        KeepZero::Exact => Some(pin_zero(&mut centroids, spec.dim())),
    };
    (pinned, centroids)
}

/// Sets the centroid that is nearest to zero to zero.
fn pin_zero(centroids_kd: &mut [f64], dim: usize) -> usize {
    let squares = centroids_kd
        .chunks_exact(dim)
        .map(|c| c.iter().map(|x| x * x).sum::<f64>());
    let zero = squares
        .enumerate()
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(0, |(k, _)| k);
    centroids_kd[zero * dim..(zero + 1) * dim].fill(0.0);
    zero
}
