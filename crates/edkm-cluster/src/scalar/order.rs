//! Centroids in ascending order, and back.

/// The permutation that sorts a palette's centroids. Equal centroids keep their order.
pub(crate) struct Order {
    /// Cluster at each place.
    clusters: Vec<usize>,
}

impl Order {
    pub(crate) fn of(centroids: &[f64]) -> Self {
        let mut clusters: Vec<usize> = (0..centroids.len()).collect();
        clusters.sort_by(|&a, &b| centroids[a].total_cmp(&centroids[b]));
        Order { clusters }
    }

    /// The cluster at each place.
    pub(crate) fn clusters(&self) -> &[usize] {
        &self.clusters
    }

    /// Numbers by cluster, put in the order of the places.
    pub(crate) fn sorted(&self, by_cluster: &[f64]) -> Vec<f64> {
        self.clusters.iter().map(|&k| by_cluster[k]).collect()
    }

    /// Numbers by place, put back in the order of the clusters.
    pub(crate) fn unsorted(&self, by_place: &[f64]) -> Vec<f64> {
        let mut by_cluster = vec![0.0; by_place.len()];
        for (&k, &x) in self.clusters.iter().zip(by_place) {
            by_cluster[k] = x;
        }
        by_cluster
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorting_is_undone() {
        let centroids = [0.5, -1.0, 0.5, -2.0, 0.0];
        let order = Order::of(&centroids);
        assert_eq!(order.clusters(), [3, 1, 4, 0, 2]);
        assert_eq!(order.sorted(&centroids), [-2.0, -1.0, 0.0, 0.5, 0.5]);
        assert_eq!(order.unsorted(&order.sorted(&centroids)), centroids);
    }
}
