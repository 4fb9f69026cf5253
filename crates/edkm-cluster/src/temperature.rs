//! The temperature of the soft assignment.

use crate::ClusterError;

/// How soft the assignment is: A = softmax(-|w - c|^2 / tau).
///
/// Both forms must lie between 1e-100 and 1e100, so that no exponent overflows whatever the weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Temperature {
    /// tau itself, in squared units of the weights.
    Absolute(f64),
    /// tau = r x gap^2, with the gap of the palette that the step starts from: for scalars the mean gap between neighbouring
    /// centroids, for vectors the mean distance of a centroid to its nearest other centroid. Coinciding centroids count once.
    /// One r so serves tensors of any spread.
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

/// The gap that a relative temperature refers to, of centroids `[K, d]`; zero where all coincide.
pub(crate) fn gap(centroids_kd: &[f64], dim: usize) -> f64 {
    match dim {
        1 => mean_gap(centroids_kd),
        _ => mean_nearest_distance(centroids_kd, dim),
    }
}

fn mean_gap(centroids_k: &[f64]) -> f64 {
    let mut sorted = centroids_k.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.dedup();
    match sorted.as_slice() {
        [first, .., last] => (last - first) / (sorted.len() - 1) as f64,
        _ => 0.0,
    }
}

fn mean_nearest_distance(centroids_kd: &[f64], dim: usize) -> f64 {
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
        let centroids = [0.5, -1.0, 0.0, 2.0];
        let larger = centroids.map(|c| c * 100.0);
        assert_eq!(gap(&centroids, 1), 1.0);
        assert_eq!(gap(&larger, 1), 100.0);
        assert_eq!(Temperature::Relative(0.1).tau(100.0), 0.1 * 1e4);
        // Two points one apart and one point three away from its nearest.
        assert_eq!(gap(&[0.0, 0.0, 1.0, 0.0, 1.0, 3.0], 2), (1.0 + 1.0 + 3.0) / 3.0);
    }

    #[test]
    fn coinciding_centroids_count_once() {
        assert_eq!(gap(&[1.0, 1.0, 3.0, 3.0], 1), 2.0);
        assert_eq!(gap(&[1.0, 1.0, 1.0, 1.0, 3.0, 1.0], 2), 2.0);
        assert_eq!(Temperature::Relative(0.1).tau(gap(&[1.0, 1.0], 1)), TAU_WITHOUT_GAP);
        assert_eq!(Temperature::Relative(0.1).tau(gap(&[1.0, 1.0], 2)), TAU_WITHOUT_GAP);
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
