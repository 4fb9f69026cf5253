//! The soft assignment of vectors to centroids, eight vectors at a time.
//!
//! Axes: K clusters, D coordinates; vectors in lanes. The N x K attention map is never stored: each pass over the vectors makes
//! its rows again.
//!
//! With r a centroid near the vectors (the reference), all in units of sqrt(tau / log2(e)), the exponent of cluster k relative to that of r is
//! |w - r|^2 - |w - c_k|^2 = 2 (w - r) . (c_k - r) - |c_k - r|^2: D products and sums for a cluster, of numbers that are as small as
//! the clusters are near, so nothing is lost by it. The two factors are kept for each reference ([`Relative`]).

use pulp::Simd;

use crate::lanes::{dispatch, Kernel, Lanes, Wide};
use crate::scalar::attention::MOST_CLUSTERS;
use crate::vector::cells::{Cells, CUTOFF_BITS};
use crate::vector::tile::{Group, Tile};

/// Clusters nearest to the reference that are not asked whether they matter.
const KEPT_UNSEEN: usize = 8;

/// Centroids at a temperature.
pub(crate) struct Attention<'c, const D: usize> {
    cells: &'c Cells<D>,
    /// Centroids times `scale`.
    scaled_kd: Vec<[f64; D]>,
    /// For each centroid that is a reference the clusters relative to it, in the order of [`Cells::clusters`]; empty for the others.
    relative_kk: Vec<Vec<Relative<D>>>,
    /// sqrt(log2(e) / tau): the square of a scaled distance is a binary exponent.
    scale: f64,
    /// Distance at which a term relative to an exact match is at the cutoff.
    reach: f64,
}

/// A cluster as its exponent depends on a vector: `slope` . (w - r) + `offset`, relative to the exponent of the reference r.
struct Relative<const D: usize> {
    slope: [f64; D],
    offset: f64,
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
        let scaled_kd: Vec<[f64; D]> = centroids_kd.iter().map(|c| c.map(|x| x * scale)).collect();
        let mut relative_kk: Vec<Vec<Relative<D>>> = (0..centroids_kd.len()).map(|_| Vec::new()).collect();
        for &reference in cells.references() {
            let relative_k = &mut relative_kk[reference as usize];
            if relative_k.is_empty() {
                let from = &scaled_kd[reference as usize];
                let relative = |&k: &u8| relative_to(from, &scaled_kd[k as usize]);
                relative_k.extend(cells.clusters(reference).iter().map(relative));
            }
        }
        Attention {
            cells,
            scaled_kd,
            relative_kk,
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
        let reference = &self.scaled_kd[group.reference as usize];
        let scaled = self.scaled(simd, &group.w);
        let from_reference: [Wide<S>; D] = std::array::from_fn(
            #[inline(always)]
            |j| scaled[j] - Wide::splat(simd, reference[j]),
        );
        let mut to_reference = from_reference[0] * from_reference[0];
        for x in &from_reference[1..] {
            to_reference = x.mul_add(*x, to_reference);
        }
        let radius = to_reference.lanes().largest().sqrt() / self.scale;
        let candidates = self.cells.candidates(group.reference, radius, self.reach);
        let relative_k = &self.relative_kk[group.reference as usize];

        // The first ones, nearest to the reference, are kept, and their largest exponents stand for the largest of all. Of the others those that
        // matter are kept without a branch, which could not be predicted: each is written behind the last one kept.
        let first = candidates.len().min(KEPT_UNSEEN);
        let mut near = Wide::splat(simd, f64::NEG_INFINITY);
        for (i, relative) in relative_k[..first].iter().enumerate() {
            let exponent = relative.exponent(simd, &from_reference);
            near = near.max(exponent);
            scratch.weights[i] = exponent.lanes();
            scratch.clusters[i] = candidates[i];
        }
        let cutoff = near - Wide::splat(simd, CUTOFF_BITS);
        let mut number = first;
        for (&k, relative) in candidates[first..].iter().zip(&relative_k[first..]) {
            let exponent = relative.exponent(simd, &from_reference);
            // At most 255 are kept before the last one.
            scratch.weights[number % MOST_CLUSTERS] = exponent.lanes();
            scratch.clusters[number % MOST_CLUSTERS] = k;
            number += usize::from(cutoff.any_below(exponent));
        }
        let number = number.min(MOST_CLUSTERS);
        let mut largest = near;
        for exponent in &scratch.weights[first..number] {
            largest = largest.max(exponent.wide(simd));
        }
        let mut sum = Wide::zero(simd);
        for weight in &mut scratch.weights[..number] {
            let w = (weight.wide(simd) - largest).exp2();
            sum += w;
            *weight = w.lanes();
        }
        Rows {
            clusters: &scratch.clusters[..number],
            weights: &mut scratch.weights[..number],
            spare: &mut scratch.spare[..number],
            sum,
            nearest: to_reference - largest,
        }
    }
}

impl<const D: usize> Relative<D> {
    #[inline(always)]
    fn exponent<S: Simd>(&self, simd: S, from_reference: &[Wide<S>; D]) -> Wide<S> {
        let mut exponent = Wide::splat(simd, self.offset);
        for (x, &slope) in from_reference.iter().zip(&self.slope) {
            exponent = x.mul_add(Wide::splat(simd, slope), exponent);
        }
        exponent
    }
}

fn relative_to<const D: usize>(reference: &[f64; D], c: &[f64; D]) -> Relative<D> {
    let difference: [f64; D] = std::array::from_fn(|j| c[j] - reference[j]);
    Relative {
        slope: difference.map(|x| 2.0 * x),
        offset: -difference.iter().map(|x| x * x).sum::<f64>(),
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
