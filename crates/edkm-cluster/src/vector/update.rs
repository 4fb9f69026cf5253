//! One repetition of the clustering of vectors: soft assignment, then every centroid moves to the weighted mean.

use pulp::Simd;

use crate::lanes::Lanes;
use crate::parallel::sum_in_order;
use crate::vector::attention::{sweep, Attention, Pass, Rows};
use crate::vector::palette::Palette;
use crate::vector::starved;
use crate::vector::tile::Group;

/// Result of one repetition.
pub(crate) struct Updated<const D: usize> {
    pub(crate) centroids_kd: Vec<[f64; D]>,
    /// log2 of S_k.
    pub(crate) log_mass_k: Vec<f64>,
}

/// Moves all centroids but the pinned one. A cluster that hardly any vector is assigned to ([`starved`]) moves as the definition says, too.
/// `None` when no vector takes part.
pub(crate) fn update<const D: usize>(
    palette: &Palette<'_, D>,
    centroids_kd: &[[f64; D]],
    tau: f64,
    pinned: Option<usize>,
) -> Option<Updated<D>> {
    let cells = palette.cells(centroids_kd);
    let attention = Attention::new(&cells, centroids_kd, tau);
    let clusters = centroids_kd.len();
    let sums = sum_in_order(palette.map_tiles(&cells, |_, tile| {
        let mut pass = Accumulate {
            taking_part: Lanes::ZERO,
            sums_k: vec![
                Sums {
                    mass: Lanes::ZERO,
                    sum: [Lanes::ZERO; D]
                };
                clusters
            ],
        };
        sweep(&attention, tile, &mut pass);
        let taking_part = [pass.taking_part.sum()];
        let mass = pass.sums_k.iter().map(|s| s.mass.sum());
        let sum = pass.sums_k.iter().flat_map(|s| s.sum).map(Lanes::sum);
        taking_part.into_iter().chain(mass).chain(sum).collect()
    }));
    // Vectors that take part come first.
    let (taking_part, sums) = (sums[0], &sums[1..]);
    if taking_part == 0.0 {
        return None;
    }
    let (mass_k, sum_kd) = sums.split_at(clusters);
    let means = sum_kd.chunks_exact(D).zip(mass_k);
    let mut updated = Updated {
        centroids_kd: means
            .map(|(sum, mass)| std::array::from_fn(|j| sum[j] / mass))
            .collect(),
        log_mass_k: mass_k.iter().map(|mass| mass.log2()).collect(),
    };
    let starved: Vec<usize> = (0..clusters)
        .filter(|&k| starved::is_starved(updated.log_mass_k[k], palette.number()))
        .collect();
    if !starved.is_empty() {
        starved::update(palette, &cells, &attention, &starved, &mut updated);
    }
    if let Some(k) = pinned {
        updated.centroids_kd[k] = centroids_kd[k];
    }
    Some(updated)
}

#[derive(Clone)]
struct Sums<const D: usize> {
    mass: Lanes,
    sum: [Lanes; D],
}

struct Accumulate<const D: usize> {
    taking_part: Lanes,
    sums_k: Vec<Sums<D>>,
}

impl<const D: usize> Pass<D> for Accumulate<D> {
    #[inline(always)]
    fn group<S: Simd>(&mut self, simd: S, group: &Group<'_, D>, rows: Rows<'_, S>) {
        let counts = group.counts.wide(simd);
        self.taking_part.add(simd, counts);
        let share = counts * rows.sum.recip();
        for (&k, weight) in rows.clusters.iter().zip(rows.weights) {
            let a = weight.wide(simd) * share;
            let sums = &mut self.sums_k[k as usize];
            sums.mass.add(simd, a);
            for (sum, w) in sums.sum.iter_mut().zip(&group.w) {
                sum.add_product(simd, a, w.wide(simd));
            }
        }
    }
}
