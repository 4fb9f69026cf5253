//! The temperature of the soft assignment.

use serde::{Deserialize, Serialize};

use crate::ClusterError;

/// How soft the assignment is: A = softmax(-|w - c|^2 / tau).
///
/// Both forms must lie between 1e-100 and 1e100, so that no exponent overflows whatever the weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Temperature {
    /// tau itself, in squared units of the weights.
    Absolute(f64),
    /// tau = r x gap^2, with the gap of the palette that the step starts from: the mean distance of a centroid to its nearest other one. For scalars it is the mean
    /// over the weights, of the centroid that is nearest to each, so that centroids which few weights far out have do not count for many; for vectors
    /// that over the centroids. Coinciding centroids count as one. One r so serves tensors of any spread.
    Relative(f64),
}

/// The temperature where a palette has no gap: all centroids coincide, so that every value gives the same uniform assignment.
const TAU_WITHOUT_GAP: f64 = 1.0;

impl Temperature {
    pub(crate) fn check(self) -> Result<(), ClusterError> {
        let (setting, value) = match self {
            Temperature::Absolute(tau) => ("the temperature", tau),
            Temperature::Relative(r) => ("the relative temperature", r),
        };
        if (1e-100..=1e100).contains(&value) {
            Ok(())
        } else {
            Err(ClusterError::Setting {
                setting,
                value,
                needed: "between 1e-100 and 1e100",
            })
        }
    }

    /// tau for a palette whose centroids have this gap.
    pub(crate) fn tau(self, gap: f64) -> f64 {
        match self {
            Temperature::Absolute(tau) => tau,
            Temperature::Relative(_) if gap == 0.0 => TAU_WITHOUT_GAP,
            Temperature::Relative(r) => r * gap * gap,
        }
    }
}

/// The gap of vectors' centroids `[K, d]`; zero where all coincide.
pub(crate) fn mean_nearest_distance(centroids_kd: &[f64], dim: usize) -> f64 {
    let mut sum = 0.0;
    let mut count = 0.0;
    for (i, a) in centroids_kd.chunks_exact(dim).enumerate() {
        let mut nearest = f64::INFINITY;
        let mut repeated = false;
        for (j, b) in centroids_kd.chunks_exact(dim).enumerate() {
            let distance: f64 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
            if distance > 0.0 {
                nearest = nearest.min(distance);
            } else {
                repeated |= j < i;
            }
        }
        if nearest.is_finite() && !repeated {
            sum += nearest.sqrt();
            count += 1.0;
        }
    }
    if count > 0.0 {
        sum / count
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_temperature_scales_with_the_square_of_the_weights() {
        // two points one apart and one point three away from its nearest
        let centroids = [0.0, 0.0, 1.0, 0.0, 1.0, 3.0];
        assert_eq!(mean_nearest_distance(&centroids, 2), (1.0 + 1.0 + 3.0) / 3.0);
        let larger = centroids.map(|c| c * 100.0);
        assert_eq!(mean_nearest_distance(&larger, 2), (100.0 + 100.0 + 300.0) / 3.0);
        assert_eq!(Temperature::Relative(0.1).tau(100.0), 0.1 * 1e4);
    }

    #[test]
    fn coinciding_centroids_count_once() {
        assert_eq!(mean_nearest_distance(&[1.0, 1.0, 1.0, 1.0, 3.0, 1.0], 2), 2.0);
        let gap = mean_nearest_distance(&[1.0, 1.0, 1.0, 1.0], 2);
        assert_eq!(Temperature::Relative(0.1).tau(gap), TAU_WITHOUT_GAP);
    }

    #[test]
    fn unusable_temperatures_are_refused() {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-200] {
            assert!(Temperature::Absolute(value).check().is_err());
            assert!(Temperature::Relative(value).check().is_err());
        }
        assert!(Temperature::Absolute(1e-4).check().is_ok());
    }
}
