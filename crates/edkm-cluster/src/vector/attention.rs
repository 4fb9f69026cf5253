//! The soft assignment of vectors to centroids, eight vectors at a time.
//!
//! Axes: K clusters, D coordinates; vectors in lanes. The N x K attention map is never stored: each pass over the vectors makes
//! its rows again.

use pulp::Simd;

use crate::lanes::{dispatch, Kernel, Lanes, Wide};
use crate::scalar::attention::MOST_CLUSTERS;
use crate::vector::cells::{Cells, CUTOFF_BITS};
use crate::vector::tile::{Group, Tile};

/// Centroids at a temperature.
pub(crate) struct Attention<'c, const D: usize> {
    cells: &'c Cells<D>,
    /// Centroids times `scale`.
    scaled_kd: Vec<[f64; D]>,
    /// sqrt(log2(e) / tau): the square of a scaled distance is a binary exponent.
    scale: f64,
    /// Distance at which a term relative to an exact match is at the cutoff.
    reach: f64,
}

/// Rows of the attention map for eight vectors.
pub(crate) struct Rows<'s, S: Simd> {
    /// The clusters that matter to any of the vectors.
    pub(crate) clusters: &'s [u8],
    /// For each of them A_ik times `sum`. A pass may overwrite them.
    pub(crate) weights: &'s mut [Lanes],
    /// As many numbers for the pass to use.
    pub(crate) spare: &'s mut [Lanes],
    /// What normalises the weights.
    pub(crate) sum: Wide<S>,
    /// The smallest scaled squared distance.
    pub(crate) nearest: Wide<S>,
}

impl<'c, const D: usize> Attention<'c, D> {
    /// At most [`MOST_CLUSTERS`] centroids, and the cells made for them.
    pub(crate) fn new(cells: &'c Cells<D>, centroids_kd: &[[f64; D]], tau: f64) -> Self {
        let scale = (std::f64::consts::LOG2_E / tau).sqrt();
        let scaled_kd = centroids_kd.iter().map(|c| c.map(|x| x * scale)).collect();
        Attention {
            cells,
            scaled_kd,
            scale,
            reach: CUTOFF_BITS.sqrt() / scale,
        }
    }

    /// Scaled squared distances of eight vectors to a cluster.
    #[inline(always)]
    pub(crate) fn distance<S: Simd>(&self, simd: S, w: &[Lanes; D], k: usize) -> Wide<S> {
        squared_distance(simd, &self.scaled(simd, w), &self.scaled_kd[k])
    }

    #[inline(always)]
    fn scaled<S: Simd>(&self, simd: S, w: &[Lanes; D]) -> [Wide<S>; D] {
        let scale = Wide::splat(simd, self.scale);
        w.map(
            #[inline(always)]
            |w| w.wide(simd) * scale,
        )
    }

    #[inline(always)]
    fn weigh<'s, S: Simd>(&self, simd: S, group: &Group<'_, D>, scratch: &'s mut Scratch) -> Rows<'s, S> {
        let scaled = self.scaled(simd, &group.w);
        let to_reference = squared_distance(simd, &scaled, &self.scaled_kd[group.reference as usize]);
        let radius = to_reference.lanes().largest().sqrt() / self.scale;
        let candidates = self.cells.candidates(group.reference, radius, self.reach);

        let mut nearest = Wide::splat(simd, f64::INFINITY);
        for (weight, &k) in scratch.weights.iter_mut().zip(candidates) {
            let distance = squared_distance(simd, &scaled, &self.scaled_kd[k as usize]);
            nearest = nearest.min(distance);
            *weight = distance.lanes();
        }
        let cutoff = nearest + Wide::splat(simd, CUTOFF_BITS);
        let mut sum = Wide::zero(simd);
        let mut number = 0;
        for (i, &k) in candidates.iter().enumerate() {
            let distance = scratch.weights[i].wide(simd);
            if distance.any_below(cutoff) {
                let weight = (nearest - distance).exp2();
                sum += weight;
                scratch.weights[number] = weight.lanes();
                scratch.clusters[number] = k;
                number += 1;
            }
        }
        Rows {
            clusters: &scratch.clusters[..number],
            weights: &mut scratch.weights[..number],
            spare: &mut scratch.spare[..number],
            sum,
            nearest,
        }
    }
}

/// |w - c|^2 of eight vectors.
#[inline(always)]
pub(crate) fn squared_distance<S: Simd, const D: usize>(simd: S, w: &[Wide<S>; D], c: &[f64; D]) -> Wide<S> {
    let mut sum = Wide::zero(simd);
    for j in 0..D {
        let difference = w[j] - Wide::splat(simd, c[j]);
        sum = if j == 0 {
            difference * difference
        } else {
            difference.mul_add(difference, sum)
        };
    }
    sum
}

struct Scratch {
    clusters: [u8; MOST_CLUSTERS],
    weights: [Lanes; MOST_CLUSTERS],
    spare: [Lanes; MOST_CLUSTERS],
}

/// What is done with the attention of each group of vectors.
pub(crate) trait Pass<const D: usize> {
    /// Implementations must be `#[inline(always)]`.
    fn group<S: Simd>(&mut self, simd: S, group: &Group<'_, D>, rows: Rows<'_, S>);
}

/// Runs a pass over a tile.
pub(crate) fn sweep<const D: usize, P: Pass<D>>(attention: &Attention<'_, D>, tile: &Tile<D>, pass: &mut P) {
    struct Sweep<'a, 'c, const D: usize, P> {
        attention: &'a Attention<'c, D>,
        tile: &'a Tile<D>,
        pass: &'a mut P,
    }
    impl<const D: usize, P: Pass<D>> Kernel for Sweep<'_, '_, D, P> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let mut scratch = Scratch {
                clusters: [0; MOST_CLUSTERS],
                weights: [Lanes::ZERO; MOST_CLUSTERS],
                spare: [Lanes::ZERO; MOST_CLUSTERS],
            };
            for g in 0..self.tile.groups() {
                let group = self.tile.group(g);
                let rows = self.attention.weigh(simd, &group, &mut scratch);
                self.pass.group(simd, &group, rows);
            }
        }
    }
    dispatch(Sweep { attention, tile, pass });
}
