//! Hard assignment of values to the nearest centroid, and Lloyd's algorithm on distinct values.

use crate::engine::Source;
use crate::lanes::Lanes;
use crate::scalar::order::Order;
use crate::scalar::rows::Rows;
use crate::scalar::PART;
use crate::target::Target;
use crate::KeepZero;

/// Nearest centroids of ascending values.
pub(crate) struct Nearest {
    /// Distinct centroids, ascending.
    centroids: Vec<f64>,
    /// The first cluster of each.
    clusters: Vec<usize>,
}

impl Nearest {
    pub(crate) fn new(centroids_k: &[f64]) -> Self {
        let order = Order::of(centroids_k);
        let mut nearest = Nearest {
            centroids: Vec::new(),
            clusters: Vec::new(),
        };
        for &k in order.clusters() {
            // -0.0 equals 0.0; equal centroids come in the order of their clusters.
            if nearest.centroids.last() != Some(&centroids_k[k]) {
                nearest.centroids.push(centroids_k[k]);
                nearest.clusters.push(k);
            }
        }
        nearest
    }

    /// The cluster whose centroid is nearest; of equally near ones the first.
    pub(crate) fn cluster(&self, u: f64) -> usize {
        let right = self.centroids.partition_point(|&c| c < u);
        if right == 0 {
            return self.clusters[0];
        }
        if right == self.centroids.len() {
            return self.clusters[right - 1];
        }
        let (to_left, to_right) = (u - self.centroids[right - 1], self.centroids[right] - u);
        let (left, right) = (self.clusters[right - 1], self.clusters[right]);
        match to_left.total_cmp(&to_right) {
            std::cmp::Ordering::Less => left,
            std::cmp::Ordering::Greater => right,
            std::cmp::Ordering::Equal => left.min(right),
        }
    }
}

/// One repetition of Lloyd's algorithm: every centroid moves to the mean of the weights nearest to it. The pinned one stays, and so does one that
/// no weight is nearest to.
pub(crate) fn update(rows: &Rows, centroids_k: &[f64], pinned: Option<usize>) -> Vec<f64> {
    let nearest = Nearest::new(centroids_k);
    let mut mass_k = vec![0.0; centroids_k.len()];
    let mut sum_k = vec![0.0; centroids_k.len()];
    for (u, count) in Lanes::unpack(&rows.values_u)
        .zip(Lanes::unpack(&rows.counts_u))
        .take(rows.len)
    {
        let k = nearest.cluster(u);
        mass_k[k] += count;
        sum_k[k] += count * u;
    }
    let moved = |k: usize| {
        if mass_k[k] > 0.0 && pinned != Some(k) {
            sum_k[k] / mass_k[k]
        } else {
            centroids_k[k]
        }
    };
    (0..centroids_k.len()).map(moved).collect()
}

/// The gradient of the hard assignment passes as it is, but to zeros that are kept.
pub(crate) fn straight_through(source: Source<'_>, target: Target<'_>) {
    let Source {
        weights,
        spec,
        execution,
    } = source;
    let kept = |weight: f32| spec.keep_zero == KeepZero::Exact && spec.half.rounded(weight) == 0.0;
    let parts: Vec<_> = weights.chunks(PART).zip(target.split(PART)).collect();
    execution.map(parts, |(weights, target)| match target {
        Target::InPlace(_) if spec.keep_zero == KeepZero::Free => {}
        Target::InPlace(grad) => {
            for (grad, &weight) in grad.iter_mut().zip(weights) {
                *grad = if kept(weight) { 0.0 } else { *grad };
            }
        }
        Target::Accumulate { upstream, total } => {
            for ((total, grad), &weight) in total.iter_mut().zip(upstream).zip(weights) {
                *total += if kept(weight) { 0.0 } else { *grad };
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_that_of_a_search_through_all() {
        let centroids = [0.5, -1.0, 0.5, 2.0, -0.0, 0.0];
        let nearest = Nearest::new(&centroids);
        for i in -200..=300 {
            let u = f64::from(i) / 100.0;
            let search = (0..centroids.len()).min_by(|&a, &b| {
                (u - centroids[a])
                    .abs()
                    .total_cmp(&(u - centroids[b]).abs())
                    .then(a.cmp(&b))
            });
            assert_eq!(Some(nearest.cluster(u)), search, "{u}");
        }
    }
}
