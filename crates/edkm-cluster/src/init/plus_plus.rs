//! k-means++ (Arthur and Vassilvitskii 2007) followed by Lloyd's algorithm, on a sample of vectors.
//!
//! Axes: M sampled vectors, K clusters, D coordinates.

use crate::bench::SplitMix64;
use crate::vector::cells::Cells;
use crate::vector::hard::nearest;
use crate::vector::tile::{Tile, TILE};
use crate::{HalfKind, KeepZero};

/// Most vectors that are looked at: 256 for each of 256 clusters.
pub(crate) const SAMPLE: usize = 1 << 16;

const LLOYD_ROUNDS: usize = 25;

/// Vectors with masses.
pub(crate) struct Sample<const D: usize> {
    pub(crate) vectors_md: Vec<[f32; D]>,
    pub(crate) masses_m: Vec<f64>,
}

impl<const D: usize> Sample<D> {
    /// Positions of at most [`SAMPLE`] of `number` vectors: one drawn from each of as many equal parts.
    pub(crate) fn positions(number: usize, random: &mut SplitMix64) -> Vec<usize> {
        let size = number.min(SAMPLE);
        let part = |i: usize| (i as u128 * number as u128 / size as u128) as usize;
        (0..size)
            .map(|i| {
                let (start, end) = (part(i), part(i + 1));
                start + (random.uniform() * (end - start) as f64) as usize
            })
            .collect()
    }

    /// Centroids of a k-means of the sample, which is not empty. With fewer distinct vectors than clusters some are repeated.
    pub(crate) fn kmeans(&self, clusters: usize, half: HalfKind, random: &mut SplitMix64) -> Vec<[f64; D]> {
        let mut centroids_kd = self.seed(clusters, random);
        for _ in 0..LLOYD_ROUNDS {
            let next_kd = self.lloyd(&centroids_kd, half);
            if next_kd == centroids_kd {
                break;
            }
            centroids_kd = next_kd;
        }
        centroids_kd
    }

    /// Each next centroid is drawn with probability proportional to mass times squared distance to the nearest of those before.
    pub(crate) fn seed(&self, clusters: usize, random: &mut SplitMix64) -> Vec<[f64; D]> {
        let wide = |m: usize| self.vectors_md[m].map(f64::from);
        let mut centroids_kd = vec![wide(draw(&self.masses_m, random).unwrap_or(0))];
        let mut distances_m = vec![f64::INFINITY; self.vectors_md.len()];
        let mut weights_m = vec![0.0; self.vectors_md.len()];
        while centroids_kd.len() < clusters {
            let last = centroids_kd[centroids_kd.len() - 1];
            for (m, distance) in distances_m.iter_mut().enumerate() {
                let vector = wide(m);
                let to_last: f64 = (0..D).map(|j| (vector[j] - last[j]) * (vector[j] - last[j])).sum();
                *distance = distance.min(to_last);
                weights_m[m] = *distance * self.masses_m[m];
            }
            match draw(&weights_m, random) {
                Some(m) => centroids_kd.push(wide(m)),
                // Every vector is a centroid.
                None => {
                    let distinct = centroids_kd.len();
                    centroids_kd.extend(
                        (distinct..clusters)
                            .map(|k| centroids_kd[k % distinct])
                            .collect::<Vec<_>>(),
                    );
                }
            }
        }
        centroids_kd
    }

    /// Centroids move to the means of the vectors nearest to them; one without any moves to the vector that is farthest from its centroid.
    fn lloyd(&self, centroids_kd: &[[f64; D]], half: HalfKind) -> Vec<[f64; D]> {
        let cells = Cells::new(centroids_kd, self.vectors_md.len());
        let mut sums_kd = vec![[0.0; D]; centroids_kd.len()];
        let mut mass_k = vec![0.0; centroids_kd.len()];
        let mut farthest: Vec<(f64, usize)> = Vec::new();
        for (t, vectors_md) in self.vectors_md.chunks(TILE).enumerate() {
            let tile = Tile::new(vectors_md.as_flattened(), half, KeepZero::Free, &cells);
            for (i, (k, distance)) in nearest(centroids_kd, &tile).into_iter().enumerate() {
                let m = t * TILE + i;
                let (k, mass) = (usize::from(k), self.masses_m[m]);
                mass_k[k] += mass;
                for (sum, &w) in sums_kd[k].iter_mut().zip(&self.vectors_md[m]) {
                    *sum += mass * f64::from(w);
                }
                farthest.push((mass * distance, m));
            }
        }
        let empty = mass_k.iter().filter(|&&mass| mass == 0.0).count();
        if empty > 0 {
            farthest.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        }
        let mut farthest = farthest.into_iter().filter(|&(distance, _)| distance > 0.0);
        let mut next = |k: usize| match (mass_k[k] > 0.0, centroids_kd[k]) {
            (true, _) => sums_kd[k].map(|sum| sum / mass_k[k]),
            (false, before) => farthest
                .next()
                .map_or(before, |(_, m)| self.vectors_md[m].map(f64::from)),
        };
        (0..centroids_kd.len()).map(&mut next).collect()
    }
}

/// A position drawn with probability proportional to its weight; `None` where all weights are zero.
fn draw(weights: &[f64], random: &mut SplitMix64) -> Option<usize> {
    let total: f64 = weights.iter().sum();
    let mut left = random.uniform() * total;
    let mut last = None;
    for (i, &weight) in weights.iter().enumerate().filter(|(_, &weight)| weight > 0.0) {
        last = Some(i);
        left -= weight;
        if left < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(vectors_md: Vec<[f32; 2]>) -> Sample<2> {
        let masses_m = vec![1.0; vectors_md.len()];
        Sample { vectors_md, masses_m }
    }

    #[test]
    fn clear_clusters_are_found() {
        let centers = [[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [-4.0, -4.0]];
        let vectors = (0..400).map(|i| {
            let [x, y] = centers[i % 4];
            [
                x + (i * 13 % 32) as f32 / 64.0 - 0.25,
                y + (i * 7 % 32) as f32 / 64.0 - 0.25,
            ]
        });
        let sample = sample(vectors.collect());
        for seed in 0..20 {
            let mut found = sample.kmeans(4, HalfKind::Bf16, &mut SplitMix64(seed));
            found.sort_by(|a, b| a.partial_cmp(b).unwrap());
            for (found, center) in found.iter().zip([[-4.0, -4.0], [0.0, 0.0], [0.0, 4.0], [4.0, 0.0]]) {
                assert!(
                    (0..2).all(|j| (found[j] - center[j]).abs() < 0.1),
                    "seed {seed}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn few_vectors_are_repeated() {
        let sample = sample(vec![[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]);
        let found = sample.kmeans(5, HalfKind::Bf16, &mut SplitMix64(1));
        assert_eq!(found.len(), 5);
        assert!(found.iter().all(|c| [[1.0, 2.0], [3.0, 4.0]].contains(c)));
        assert!([[1.0, 2.0], [3.0, 4.0]].iter().all(|v| found.contains(v)));
    }

    #[test]
    fn positions_are_spread() {
        let positions = Sample::<2>::positions(10 * SAMPLE, &mut SplitMix64(3));
        assert_eq!(positions.len(), SAMPLE);
        assert!(positions.iter().enumerate().all(|(i, &p)| p / 10 == i));
        assert_eq!(Sample::<2>::positions(7, &mut SplitMix64(3)), [0, 1, 2, 3, 4, 5, 6]);
    }
}
