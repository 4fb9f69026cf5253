//! Hard assignment of vectors to the nearest centroid, and Lloyd's algorithm.

use pulp::Simd;

use crate::lanes::{dispatch, Kernel, Lanes, Wide, LANES};
use crate::parallel::sum_in_order;
use crate::target::Target;
use crate::vector::attention::squared_distance;
use crate::vector::palette::Palette;
use crate::vector::tile::{Tile, TILE};
use crate::KeepZero;

/// For each vector of a tile the nearest centroid, of equally near ones the first, and the squared distance to it.
pub(crate) fn nearest<const D: usize>(centroids_kd: &[[f64; D]], tile: &Tile<D>) -> Vec<(u8, f64)> {
    struct Nearest<'a, const D: usize> {
        centroids_kd: &'a [[f64; D]],
        tile: &'a Tile<D>,
    }
    impl<const D: usize> Kernel for Nearest<'_, D> {
        type Output = Vec<(u8, f64)>;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let mut found = vec![(0, 0.0); self.tile.len()];
            for g in 0..self.tile.groups() {
                let group = self.tile.group(g);
                let (index, distance) = nearest_eight(simd, self.centroids_kd, &group.w);
                for (lane, &member) in group.members.iter().enumerate() {
                    found[member as usize] = (index.0[lane] as u8, distance.0[lane]);
                }
            }
            found
        }
    }
    dispatch(Nearest { centroids_kd, tile })
}

/// For each point the nearest centroid, of equally near ones the first.
pub(crate) fn nearest_of<const D: usize>(centroids_kd: &[[f64; D]], points: &[[f64; D]]) -> Vec<u8> {
    struct NearestOf<'a, const D: usize> {
        centroids_kd: &'a [[f64; D]],
        points: &'a [[f64; D]],
    }
    impl<const D: usize> Kernel for NearestOf<'_, D> {
        type Output = Vec<u8>;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let mut found = Vec::with_capacity(self.points.len());
            for points in self.points.chunks(LANES) {
                let lane = |j: usize, lane: usize| points[lane.min(points.len() - 1)][j];
                let w = std::array::from_fn(|j| Lanes(std::array::from_fn(|l| lane(j, l))));
                let (index, _) = nearest_eight(simd, self.centroids_kd, &w);
                found.extend(index.0[..points.len()].iter().map(|&k| k as u8));
            }
            found
        }
    }
    dispatch(NearestOf { centroids_kd, points })
}

/// Nearest centroid, as a number so that it shares the lanes of the distances, and squared distance to it.
#[inline(always)]
fn nearest_eight<S: Simd, const D: usize>(simd: S, centroids_kd: &[[f64; D]], w: &[Lanes; D]) -> (Lanes, Lanes) {
    let w = w.map(
        #[inline(always)]
        |w| w.wide(simd),
    );
    let mut nearest = Wide::splat(simd, f64::INFINITY);
    let mut index = Wide::zero(simd);
    for (k, c) in centroids_kd.iter().enumerate() {
        let distance = squared_distance(simd, &w, c);
        index = distance.if_below(nearest, Wide::splat(simd, k as f64), index);
        nearest = distance.min(nearest);
    }
    (index.lanes(), nearest.lanes())
}

/// One repetition of Lloyd's algorithm: every centroid moves to the mean of the vectors nearest to it. The pinned one stays, and so does one that
/// no vector is nearest to. `None` when no vector takes part.
pub(crate) fn update<const D: usize>(
    palette: &Palette<'_, D>,
    centroids_kd: &[[f64; D]],
    pinned: Option<usize>,
) -> Option<Vec<[f64; D]>> {
    let sums = sum_in_order(palette.map_tiles(&palette.cells(centroids_kd), |_, tile| {
        let mut sums = vec![0.0; centroids_kd.len() * (D + 1)];
        for ((k, _), vector) in nearest(centroids_kd, tile).into_iter().zip(tile.vectors()) {
            if tile.takes_part(vector) {
                let sums = &mut sums[k as usize * (D + 1)..];
                sums[D] += 1.0;
                for (sum, &w) in sums.iter_mut().zip(vector) {
                    *sum += f64::from(w);
                }
            }
        }
        sums
    }));
    let means = sums
        .chunks_exact(D + 1)
        .zip(centroids_kd)
        .enumerate()
        .map(|(k, (sum, &before))| {
            if sum[D] > 0.0 && pinned != Some(k) {
                std::array::from_fn(|j| sum[j] / sum[D])
            } else {
                before
            }
        });
    sums.chunks_exact(D + 1)
        .any(|sum| sum[D] > 0.0)
        .then(|| means.collect())
}

/// Writes each vector's nearest centroid, as the f32 palette has it.
pub(crate) fn clustered<const D: usize>(palette: &Palette<'_, D>, centroids_kd: &[[f64; D]], out: &mut [f32]) {
    let rounded_kd: Vec<[f64; D]> = centroids_kd.iter().map(|c| c.map(|x| f64::from(x as f32))).collect();
    palette.map_tiles_to(&palette.cells(&rounded_kd), Target::InPlace(out), |target, tile| {
        if let Target::InPlace(out) = target {
            let vectors = nearest(&rounded_kd, tile).into_iter().zip(tile.vectors());
            for (out, ((k, _), vector)) in out.chunks_exact_mut(D).zip(vectors) {
                for (out, &c) in out.iter_mut().zip(&rounded_kd[k as usize]) {
                    *out = if tile.takes_part(vector) { c as f32 } else { 0.0 };
                }
            }
        }
    });
}

/// Writes the index of each vector's nearest centroid.
pub(crate) fn assign<const D: usize>(palette: &Palette<'_, D>, palette_kd: &[[f64; D]], indices: &mut [u8]) {
    for (indices, found) in indices
        .chunks_mut(TILE)
        .zip(palette.map_tiles(&palette.cells(palette_kd), |_, tile| nearest(palette_kd, tile)))
    {
        for (index, (k, _)) in indices.iter_mut().zip(found) {
            *index = k;
        }
    }
}

/// The gradient of the hard assignment passes as it is, but to zeros that are kept.
pub(crate) fn straight_through<const D: usize>(palette: &Palette<'_, D>, target: Target<'_>) {
    let (half, keep_zero) = (palette.0.spec.half, palette.0.spec.keep_zero);
    let kept = |vector: &[f32]| keep_zero == KeepZero::Exact && vector.iter().all(|&w| half.rounded(w) == 0.0);
    let part = TILE * D;
    let parts: Vec<_> = palette.0.weights.chunks(part).zip(target.split(part)).collect();
    palette.0.execution.map(parts, |(weights, target)| match target {
        Target::InPlace(_) if keep_zero == KeepZero::Free => {}
        Target::InPlace(grad) => {
            for (vector, grad) in weights.chunks_exact(D).zip(grad.chunks_exact_mut(D)) {
                if kept(vector) {
                    grad.fill(0.0);
                }
            }
        }
        Target::Accumulate { upstream, total } => {
            let vectors = weights
                .chunks_exact(D)
                .zip(upstream.chunks_exact(D))
                .zip(total.chunks_exact_mut(D));
            for ((_, upstream), total) in vectors.filter(|((vector, _), _)| !kept(vector)) {
                for (total, grad) in total.iter_mut().zip(upstream) {
                    *total += grad;
                }
            }
        }
    });
}
