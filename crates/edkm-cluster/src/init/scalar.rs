//! Starting centroids of scalars that are not those of the least squared error.
//!
//! Axes: U distinct values in ascending order, with masses above 0; K clusters.

use crate::bench::SplitMix64;
use crate::init::plus_plus::Sample;
use crate::scalar::hard::Nearest;

const LLOYD_ROUNDS: usize = 25;

/// k-means++ and Lloyd's algorithm, ascending. With fewer values than clusters some are repeated.
pub(crate) fn plus_plus(values_u: &[f64], masses_u: &[f64], clusters: usize, random: &mut SplitMix64) -> Vec<f64> {
    let sample = Sample {
        vectors_md: values_u.iter().map(|&value| [value as f32]).collect(),
        masses_m: masses_u.to_vec(),
    };
    let mut centroids_k = sample.seed(clusters, random).into_flattened();
    centroids_k.sort_by(f64::total_cmp);
    for _ in 0..LLOYD_ROUNDS {
        let next_k = lloyd(values_u, masses_u, &centroids_k);
        if next_k == centroids_k {
            break;
        }
        centroids_k = next_k;
    }
    centroids_k
}

/// Every centroid moves to the mean of the values nearest to it; one without any stays.
fn lloyd(values_u: &[f64], masses_u: &[f64], centroids_k: &[f64]) -> Vec<f64> {
    let nearest = Nearest::new(centroids_k);
    let mut sums_k = vec![(0.0, 0.0); centroids_k.len()];
    for (&value, &mass) in values_u.iter().zip(masses_u) {
        let (total, sum) = &mut sums_k[nearest.cluster(value)];
        *total += mass;
        *sum += mass * value;
    }
    let moved = |(&(total, sum), &before): (&(f64, f64), &f64)| if total > 0.0 { sum / total } else { before };
    sums_k.iter().zip(centroids_k).map(moved).collect()
}

/// The values below which (k + 1/2) / K of the mass lies, for each k.
pub(crate) fn quantiles(values_u: &[f64], masses_u: &[f64], clusters: usize) -> Vec<f64> {
    let total: f64 = masses_u.iter().sum();
    let mut at = 0;
    let mut below = masses_u[0];
    (0..clusters)
        .map(|k| {
            let wanted = total * (k as f64 + 0.5) / clusters as f64;
            while below < wanted && at + 1 < values_u.len() {
                at += 1;
                below += masses_u[at];
            }
            values_u[at]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::exact::exact;

    fn squared_error(values: &[f64], masses: &[f64], centroids: &[f64]) -> f64 {
        let distance = |v: f64| {
            centroids
                .iter()
                .map(|c| (v - c) * (v - c))
                .fold(f64::INFINITY, f64::min)
        };
        values.iter().zip(masses).map(|(&v, m)| m * distance(v)).sum()
    }

    /// 200 values that lie closer together towards zero, the closer ones with more mass.
    fn some() -> (Vec<f64>, Vec<f64>) {
        let values: Vec<f64> = (-100..100).map(|i| (f64::from(i) / 100.0).powi(3)).collect();
        let masses = (-100..100).map(|i: i32| f64::from(101 - i.abs())).collect();
        (values, masses)
    }

    #[test]
    fn a_local_minimum_is_found_near_the_best() {
        let (values, masses) = some();
        let best = squared_error(&values, &masses, &exact(&values, &masses, 8));
        for seed in 0..10 {
            let found = plus_plus(&values, &masses, 8, &mut SplitMix64(seed));
            assert!(found.is_sorted() && found.len() == 8, "{found:?}");
            let error = squared_error(&values, &masses, &found);
            // k-means++ is within a factor of 8 (ln K + 2) in expectation before Lloyd's algorithm; after it, far closer
            assert!((best * (1.0 - 1e-12)..2.0 * best).contains(&error), "{error} {best}");
        }
        let seeds = [1, 2].map(|seed| plus_plus(&values, &masses, 8, &mut SplitMix64(seed)));
        assert_ne!(seeds[0], seeds[1]);
    }

    #[test]
    fn as_many_weights_lie_between_quantiles() {
        let (values, masses) = some();
        let found = quantiles(&values, &masses, 4);
        let below = |c: f64| -> f64 {
            values
                .iter()
                .zip(&masses)
                .filter(|(v, _)| **v < c)
                .map(|(_, m)| m)
                .sum()
        };
        let total: f64 = masses.iter().sum();
        for (k, &centroid) in found.iter().enumerate() {
            let wanted = total * (k as f64 + 0.5) / 4.0;
            assert!((below(centroid) - wanted).abs() <= 101.0, "{centroid} {wanted}");
        }
    }

    #[test]
    fn few_values_are_repeated() {
        let (values, masses) = ([1.0, 2.0], [1.0, 3.0]);
        for found in [
            plus_plus(&values, &masses, 4, &mut SplitMix64(0)),
            quantiles(&values, &masses, 4),
        ] {
            assert_eq!(found.len(), 4);
            assert!(values.iter().all(|v| found.contains(v)) && found.iter().all(|c| values.contains(c)));
        }
    }
}
