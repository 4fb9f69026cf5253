//! Differentiable k-means (DKM, arXiv 2108.12659) in float64, straight from its definition: the oracle.
//!
//! Axes: N weights (vectors of d numbers), K clusters, d dimensions. Everything is dense, nothing is clever: the attention map is
//! built for all N x K pairs in each repetition and kept, and the backward pass differentiates line by line.

/// The definition's parameters.
#[derive(Debug, Clone, Copy)]
pub struct DenseDkm {
    /// Temperature of the softmax over squared distances.
    pub tau: f64,
    /// Repetitions of assignment and update.
    pub iterations: usize,
    /// Numbers in a vector, 1 for scalars.
    pub dim: usize,
    /// Number of clusters.
    pub clusters: usize,
}

/// What the forward pass computes.
#[derive(Debug, Clone)]
pub struct DenseForward {
    /// Centroids at the start and after each repetition, each `[K, d]`.
    pub trajectory_kd: Vec<Vec<f64>>,
    /// The attention map of each repetition, each `[N, K]`.
    pub attention_nk: Vec<Vec<f64>>,
    /// The clustered weights, `[N, d]`.
    pub clustered_nd: Vec<f64>,
}

impl DenseDkm {
    /// Runs the definition on weights `[N, d]` (already rounded to 16 bits if that is wanted) from centroids `[K, d]`.
    pub fn forward(&self, weights_nd: &[f64], start_kd: &[f64]) -> DenseForward {
        let (d, k) = (self.dim, self.clusters);
        assert_eq!(start_kd.len(), k * d);
        assert_eq!(weights_nd.len() % d, 0);
        let mut trajectory_kd = vec![start_kd.to_vec()];
        let mut attention_nk = Vec::new();
        for _ in 0..self.iterations {
            let centroids_kd = trajectory_kd.last().expect("starts with one");
            let map_nk = self.attention(weights_nd, centroids_kd);
            let mut next_kd = vec![0.0; k * d];
            for c in 0..k {
                let mass: f64 = map_nk.chunks(k).map(|row| row[c]).sum();
                for j in 0..d {
                    let sum: f64 = map_nk
                        .chunks(k)
                        .zip(weights_nd.chunks(d))
                        .map(|(row, w)| row[c] * w[j])
                        .sum();
                    next_kd[c * d + j] = sum / mass;
                }
            }
            trajectory_kd.push(next_kd);
            attention_nk.push(map_nk);
        }
        let last_kd = trajectory_kd.last().expect("starts with one");
        let map_nk = attention_nk.last().expect("at least one repetition");
        let mut clustered_nd = vec![0.0; weights_nd.len()];
        for (out, row) in clustered_nd.chunks_mut(d).zip(map_nk.chunks(k)) {
            for c in 0..k {
                for j in 0..d {
                    out[j] += row[c] * last_kd[c * d + j];
                }
            }
        }
        DenseForward {
            trajectory_kd,
            attention_nk,
            clustered_nd,
        }
    }

    /// The gradient with respect to the weights, `[N, d]`, of a loss whose gradient with respect to the clustered weights is
    /// `upstream_nd`. The starting centroids are constants.
    pub fn backward(&self, weights_nd: &[f64], forward: &DenseForward, upstream_nd: &[f64]) -> Vec<f64> {
        let (d, k) = (self.dim, self.clusters);
        let mut weight_grad_nd = vec![0.0; weights_nd.len()];
        let mut centroid_grad_kd = vec![0.0; k * d];
        for repetition in (0..self.iterations).rev() {
            let before_kd = &forward.trajectory_kd[repetition];
            let after_kd = &forward.trajectory_kd[repetition + 1];
            let map_nk = &forward.attention_nk[repetition];
            let mut map_grad_nk = vec![0.0; map_nk.len()];
            if repetition + 1 == self.iterations {
                // clustered = A c
                for ((row, row_grad), g) in map_nk
                    .chunks(k)
                    .zip(map_grad_nk.chunks_mut(k))
                    .zip(upstream_nd.chunks(d))
                {
                    for c in 0..k {
                        for j in 0..d {
                            row_grad[c] += after_kd[c * d + j] * g[j];
                            centroid_grad_kd[c * d + j] += row[c] * g[j];
                        }
                    }
                }
            }
            // c = N / S with N = sum A w and S = sum A
            for c in 0..k {
                let mass: f64 = map_nk.chunks(k).map(|row| row[c]).sum();
                let sum_grad: Vec<f64> = (0..d).map(|j| centroid_grad_kd[c * d + j] / mass).collect();
                let mass_grad: f64 = -(0..d).map(|j| after_kd[c * d + j] * sum_grad[j]).sum::<f64>();
                for (n, (row, w)) in map_nk.chunks(k).zip(weights_nd.chunks(d)).enumerate() {
                    map_grad_nk[n * k + c] += mass_grad + (0..d).map(|j| w[j] * sum_grad[j]).sum::<f64>();
                    for j in 0..d {
                        weight_grad_nd[n * d + j] += row[c] * sum_grad[j];
                    }
                }
            }
            // A = softmax(-D / tau) with D = |w - c|^2
            centroid_grad_kd.fill(0.0);
            for (n, (row, w)) in map_nk.chunks(k).zip(weights_nd.chunks(d)).enumerate() {
                let row_grad = &map_grad_nk[n * k..(n + 1) * k];
                let mean: f64 = row.iter().zip(row_grad).map(|(a, g)| a * g).sum();
                for c in 0..k {
                    let distance_grad = -row[c] * (row_grad[c] - mean) / self.tau;
                    for j in 0..d {
                        let difference = 2.0 * (w[j] - before_kd[c * d + j]);
                        weight_grad_nd[n * d + j] += distance_grad * difference;
                        centroid_grad_kd[c * d + j] -= distance_grad * difference;
                    }
                }
            }
        }
        weight_grad_nd
    }

    fn attention(&self, weights_nd: &[f64], centroids_kd: &[f64]) -> Vec<f64> {
        let (d, k) = (self.dim, self.clusters);
        let mut map_nk = Vec::with_capacity(weights_nd.len() / d * k);
        for w in weights_nd.chunks(d) {
            let distances: Vec<f64> = centroids_kd
                .chunks(d)
                .map(|c| w.iter().zip(c).map(|(w, c)| (w - c) * (w - c)).sum())
                .collect();
            let nearest = distances.iter().copied().fold(f64::INFINITY, f64::min);
            let weights: Vec<f64> = distances.iter().map(|x| ((nearest - x) / self.tau).exp()).collect();
            let total: f64 = weights.iter().sum();
            map_nk.extend(weights.iter().map(|x| x / total));
        }
        map_nk
    }
}

/// Rounds to bfloat16 (nearest, ties to even) and widens.
pub fn round_bf16(weights: &[f32]) -> Vec<f64> {
    weights.iter().map(|&w| half::bf16::from_f32(w).to_f64()).collect()
}

/// Rounds to IEEE half precision (nearest, ties to even) and widens.
pub fn round_f16(weights: &[f32]) -> Vec<f64> {
    weights.iter().map(|&w| half::f16::from_f32(w).to_f64()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{golden_files, Golden};
    use crate::tolerance::assert_close;

    /// A sum of smooth values: its central difference must match the backward pass.
    #[test]
    fn backward_is_the_derivative_of_forward() {
        for dim in [1, 2] {
            let dkm = DenseDkm {
                tau: 0.3,
                iterations: 3,
                dim,
                clusters: 3,
            };
            let weights: Vec<f64> = (0..12).map(|i| ((i * 7 % 12) as f64 * 0.31 - 1.6).sin()).collect();
            let start: Vec<f64> = (0..3 * dim).map(|i| i as f64 * 0.4 - 0.5).collect();
            let upstream: Vec<f64> = (0..12).map(|i| ((i * 5 % 7) as f64 - 2.5) * 0.3).collect();
            let loss = |w: &[f64]| -> f64 {
                dkm.forward(w, &start)
                    .clustered_nd
                    .iter()
                    .zip(&upstream)
                    .map(|(a, b)| a * b)
                    .sum()
            };
            let step = 1e-5;
            let difference: Vec<f64> = (0..weights.len())
                .map(|i| {
                    let (mut up, mut down) = (weights.clone(), weights.clone());
                    up[i] += step;
                    down[i] -= step;
                    (loss(&up) - loss(&down)) / (2.0 * step)
                })
                .collect();
            let gradient = dkm.backward(&weights, &dkm.forward(&weights, &start), &upstream);
            // Truncation of order step^2 and rounding of order eps / step, both near 1e-10.
            assert_close("gradient", &gradient, &difference, 1e-8);
        }
    }

    #[test]
    fn golden_files_agree_with_the_definition() {
        for path in golden_files("dkm_") {
            let golden = Golden::read(&path);
            let dkm = DenseDkm {
                tau: golden.metadata_as("tau"),
                iterations: golden.metadata_as("iterations"),
                dim: golden.metadata_as("dim"),
                clusters: golden.metadata_as("clusters"),
            };
            let round = if golden.metadata_as::<String>("half") == "f16" {
                round_f16
            } else {
                round_bf16
            };
            let weights = round(&golden.f32s("weight_f32"));
            let forward = dkm.forward(&weights, &golden.f64s("init_centroids_f64"));
            let name = golden.name();
            // Two float64 programs that sum in different orders, with exponents of up to some thousand.
            assert_close(
                &name,
                &forward.trajectory_kd.concat(),
                &golden.f64s("trajectory_f64"),
                1e-10,
            );
            assert_close(&name, &forward.clustered_nd, &golden.f64s("clustered_f64"), 1e-10);
            let gradient = dkm.backward(&weights, &forward, &golden.f64s("upstream_f64"));
            assert_close(&name, &gradient, &golden.f64s("grad_weight_f64"), 1e-9);
        }
    }
}
