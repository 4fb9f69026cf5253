//! The gap of a palette: how far its centroids are apart where the weights are.

use crate::lanes::Lanes;
use crate::scalar::hard::Nearest;
use crate::scalar::rows::Rows;

/// The mean over the weights of how far the centroid that is nearest to each is from its own nearest other one; zero where all centroids coincide, or nothing takes part.
///
/// A mean over the centroids would follow the few weights far out that language models have: k-means gives them centroids with wide gaps, and what is soft for those leaves no
/// palette for the others.
pub(crate) fn gap(rows: &Rows, centroids_k: &[f64]) -> f64 {
    if rows.mass == 0.0 {
        return 0.0;
    }
    let nearest = Nearest::new(centroids_k);
    let mut mass_k = vec![0.0; centroids_k.len()];
    let counted = Lanes::unpack(&rows.values_u).zip(Lanes::unpack(&rows.counts_u));
    for (u, count) in counted.take(rows.len) {
        mass_k[nearest.cluster(u)] += count;
    }
    // masses are whole numbers; in the order of the clusters, as other devices sum it
    let mut sum = 0.0;
    for (&c, mass) in centroids_k.iter().zip(mass_k).filter(|(_, mass)| *mass > 0.0) {
        let to_others = centroids_k.iter().map(|other| (other - c).abs());
        let to_nearest = to_others
            .filter(|&distance| distance > 0.0)
            .fold(f64::INFINITY, f64::min);
        if to_nearest.is_finite() {
            sum += mass * to_nearest;
        }
    }
    sum / rows.mass
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::histogram::Distinct;
    use crate::{HalfKind, KeepZero};

    /// Rows of so many weights of each value.
    fn rows(counts: &[(f32, u32)], keep_zero: KeepZero) -> Rows {
        let distinct = Distinct {
            keys_u: counts.iter().map(|(value, _)| (value.to_bits() >> 16) as u16).collect(),
            counts_u: counts.iter().map(|(_, count)| *count).collect(),
            sums_u: Vec::new(),
        };
        Rows::new(&distinct, HalfKind::Bf16, keep_zero)
    }

    #[test]
    fn centroids_count_by_their_weights() {
        let counts = [(-1.0, 2), (0.0, 3), (0.5, 3), (64.0, 1)];
        let centroids = [64.0, -1.0, 0.0, 0.5];
        let expected = (2.0 * 1.0 + 3.0 * 0.5 + 3.0 * 0.5 + 63.5) / 9.0;
        assert_eq!(gap(&rows(&counts, KeepZero::Free), &centroids), expected);
        // zeros that are kept take no part
        let expected = (2.0 * 1.0 + 3.0 * 0.5 + 63.5) / 6.0;
        assert_eq!(gap(&rows(&counts, KeepZero::Exact), &centroids), expected);
        let larger = counts.map(|(value, count)| (value * 4.0, count));
        assert_eq!(
            gap(&rows(&larger, KeepZero::Exact), &centroids.map(|c| c * 4.0)),
            4.0 * expected
        );
        // a few weights far out change little, however many centroids they have
        let bulk = [(-1.0, 1000), (0.0, 1000), (1.0, 1000)];
        let with_few = [&bulk[..], &[(32.0, 1), (64.0, 1), (128.0, 1)]].concat();
        let palette = [-1.0, 0.0, 1.0, 32.0, 64.0, 128.0];
        let gap = gap(&rows(&with_few, KeepZero::Free), &palette);
        assert!((gap - 1.0).abs() < 0.05, "{gap}");
    }

    #[test]
    fn coinciding_centroids_count_as_one() {
        let rows = rows(&[(1.0, 2), (3.0, 2)], KeepZero::Free);
        assert_eq!(gap(&rows, &[1.0, 1.0, 3.0, 3.0]), 2.0);
        assert_eq!(gap(&rows, &[1.0, 1.0]), 0.0);
    }
}
