//! Clusters that hardly any vector is assigned to: as for scalars ([`crate::scalar::starved`]), exactly and slowly, in logarithms.

use pulp::Simd;

use crate::lanes::{Lanes, Wide, LANES};
use crate::vector::attention::{sweep, Attention, Pass, Rows};
use crate::vector::cells::{Cells, CUTOFF_BITS};
use crate::vector::palette::Palette;
use crate::vector::tile::Group;
use crate::vector::update::Updated;

/// Whether terms that were left out may matter to a cluster of mass 2^`log_mass`, of `number` vectors in all: it misses less than 2^-16 of
/// its mass otherwise, if every vector were at the cutoff.
pub(crate) fn is_starved(log_mass: f64, number: usize) -> bool {
    const KEPT_BITS: f64 = 16.0;
    log_mass < (number as f64).log2() - (CUTOFF_BITS - KEPT_BITS)
}

/// log2 of what normalises the rows of eight vectors, in the exponents of [`Attention::distance`].
#[inline(always)]
pub(crate) fn log_sum<S: Simd>(simd: S, rows: &Rows<'_, S>) -> Wide<S> {
    let log = Lanes(rows.sum.lanes().0.map(f64::log2));
    log.wide(simd) - rows.nearest
}

/// Replaces centroid and log2 mass of the starved clusters.
pub(crate) fn update<const D: usize>(
    palette: &Palette<'_, D>,
    cells: &Cells<D>,
    attention: &Attention<'_, D>,
    starved: &[usize],
    updated: &mut Updated<D>,
) {
    let tiles = palette.map_tiles(cells, |_, tile| {
        let mut pass = LogMeans {
            attention,
            starved,
            means: vec![LogMean::EMPTY; starved.len()],
        };
        sweep(attention, tile, &mut pass);
        pass.means
    });
    for (i, &k) in starved.iter().enumerate() {
        let mut total = LogMean::EMPTY;
        for tile in &tiles {
            total.add(&tile[i]);
        }
        updated.centroids_kd[k] = total.sum.map(|sum| sum / total.mass);
        updated.log_mass_k[k] = total.log + total.mass.log2();
    }
}

/// A weighted sum whose weights may be smaller than any f64: mass and sum are multiples of 2^log.
#[derive(Clone, Copy)]
struct LogMean<const D: usize> {
    log: f64,
    mass: f64,
    sum: [f64; D],
}

impl<const D: usize> LogMean<D> {
    const EMPTY: Self = LogMean {
        log: f64::NEG_INFINITY,
        mass: 0.0,
        sum: [0.0; D],
    };

    fn add(&mut self, other: &Self) {
        if other.log > self.log {
            let smaller = std::mem::replace(self, *other);
            return self.add(&smaller);
        }
        if other.log > f64::NEG_INFINITY {
            let scale = (other.log - self.log).exp2();
            self.mass += scale * other.mass;
            for (sum, other) in self.sum.iter_mut().zip(other.sum) {
                *sum += scale * other;
            }
        }
    }
}

struct LogMeans<'a, const D: usize> {
    attention: &'a Attention<'a, D>,
    starved: &'a [usize],
    means: Vec<LogMean<D>>,
}

impl<const D: usize> Pass<D> for LogMeans<'_, D> {
    #[inline(always)]
    fn group<S: Simd>(&mut self, simd: S, group: &Group<'_, D>, rows: Rows<'_, S>) {
        let log_sum = log_sum(simd, &rows).lanes();
        for (mean, &k) in self.means.iter_mut().zip(self.starved) {
            let distance = self.attention.distance(simd, &group.w, k).lanes();
            for lane in 0..LANES {
                if group.counts.0[lane] > 0.0 {
                    let sum = std::array::from_fn(|j| group.w[j].0[lane]);
                    mean.add(&LogMean {
                        log: -distance.0[lane] - log_sum.0[lane],
                        mass: 1.0,
                        sum,
                    });
                }
            }
        }
    }
}
