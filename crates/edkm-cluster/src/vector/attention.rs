//! The soft assignment of vectors to centroids, eight vectors at a time.
//!
//! Axes: K clusters, D coordinates; vectors in lanes. The N x K attention map is never stored: each pass over the vectors makes
//! its rows again.

use crate::lanes::{dispatch, exp2, Arithmetic, Kernel, Lanes};
use crate::scalar::attention::MOST_CLUSTERS;
use crate::vector::tile::{Group, Tile};

/// A term of the softmax is left out when it is below 2^-52 of the largest, for all of eight vectors. 256 such terms change a sum
/// by 6e-14.
pub(crate) const CUTOFF_BITS: f64 = 52.0;

/// Centroids at a temperature.
pub(crate) struct Attention<const D: usize> {
    /// Centroids times `scale`.
    scaled_kd: Vec<[f64; D]>,
    /// sqrt(log2(e) / tau): the square of a scaled distance is a binary exponent.
    scale: f64,
}

/// Rows of the attention map for eight vectors.
pub(crate) struct Rows<'s> {
    /// The clusters that matter to any of the vectors, ascending.
    pub(crate) clusters: &'s [usize],
    /// For each of them A_ik times `sum`. A pass may overwrite them.
    pub(crate) weights: &'s mut [Lanes],
    /// What normalises the weights.
    pub(crate) sum: Lanes,
    /// The smallest scaled squared distance.
    pub(crate) nearest: Lanes,
}

impl<const D: usize> Attention<D> {
    /// At most [`MOST_CLUSTERS`] centroids.
    pub(crate) fn new(centroids_kd: &[[f64; D]], tau: f64) -> Self {
        let scale = (std::f64::consts::LOG2_E / tau).sqrt();
        Attention {
            scaled_kd: centroids_kd.iter().map(|c| c.map(|x| x * scale)).collect(),
            scale,
        }
    }

    /// Scaled squared distances -log2(A) + constant of eight vectors to a cluster.
    #[inline(always)]
    pub(crate) fn distance<A: Arithmetic>(&self, w: &[Lanes; D], k: usize) -> Lanes {
        let scale = Lanes::splat(self.scale);
        let mut scaled = *w;
        for x in &mut scaled {
            *x = *x * scale;
        }
        squared_distance::<A, D>(&scaled, &self.scaled_kd[k])
    }

    #[inline(always)]
    fn weigh<'s, A: Arithmetic>(&self, w: &[Lanes; D], scratch: &'s mut Scratch) -> Rows<'s> {
        let scale = Lanes::splat(self.scale);
        let mut scaled = *w;
        for x in &mut scaled {
            *x = *x * scale;
        }
        let mut nearest = Lanes::splat(f64::INFINITY);
        for (weight, c) in scratch.weights.iter_mut().zip(&self.scaled_kd) {
            *weight = squared_distance::<A, D>(&scaled, c);
            nearest = nearest.min(*weight);
        }
        let cutoff = nearest + Lanes::splat(CUTOFF_BITS);
        let mut sum = Lanes::ZERO;
        let mut number = 0;
        for k in 0..self.scaled_kd.len() {
            let distance = scratch.weights[k];
            if distance.any_below(cutoff) {
                let weight = exp2::<A>(nearest - distance);
                sum += weight;
                scratch.weights[number] = weight;
                scratch.clusters[number] = k;
                number += 1;
            }
        }
        Rows {
            clusters: &scratch.clusters[..number],
            weights: &mut scratch.weights[..number],
            sum,
            nearest,
        }
    }
}

/// |w - c|^2 of eight vectors.
#[inline(always)]
pub(crate) fn squared_distance<A: Arithmetic, const D: usize>(w: &[Lanes; D], c: &[f64; D]) -> Lanes {
    let mut sum = Lanes::ZERO;
    for j in 0..D {
        let difference = w[j] - Lanes::splat(c[j]);
        sum = if j == 0 {
            difference * difference
        } else {
            A::mul_add(difference, difference, sum)
        };
    }
    sum
}

struct Scratch {
    clusters: [usize; MOST_CLUSTERS],
    weights: [Lanes; MOST_CLUSTERS],
}

/// What is done with the attention of each group of vectors.
pub(crate) trait Pass<const D: usize> {
    /// Implementations must be `#[inline(always)]`.
    fn group<A: Arithmetic>(&mut self, group: &Group<'_, D>, rows: Rows<'_>);
}

/// Runs a pass over a tile.
pub(crate) fn sweep<const D: usize, P: Pass<D>>(attention: &Attention<D>, tile: &Tile<D>, pass: &mut P) {
    struct Sweep<'a, const D: usize, P> {
        attention: &'a Attention<D>,
        tile: &'a Tile<D>,
        pass: &'a mut P,
    }
    impl<const D: usize, P: Pass<D>> Kernel for Sweep<'_, D, P> {
        type Output = ();
        #[inline(always)]
        fn run<A: Arithmetic>(self) {
            let mut scratch = Scratch {
                clusters: [0; MOST_CLUSTERS],
                weights: [Lanes::ZERO; MOST_CLUSTERS],
            };
            for g in 0..self.tile.groups() {
                let group = self.tile.group(g);
                let rows = self.attention.weigh::<A>(&group.w, &mut scratch);
                self.pass.group::<A>(&group, rows);
            }
        }
    }
    dispatch(Sweep { attention, tile, pass });
}
