//! The soft assignment of sorted values to sorted centroids, a block of values at a time.
//!
//! Axes: U distinct values in ascending order (packed in lanes), K clusters in ascending order of their centroids.
//!
//! With x_uk = -(u - c_k)^2 / tau in binary exponents, the row of the attention map is A_uk = 2^(x_uk - max_k x_uk) / sum. Terms that
//! are smaller than the largest by more than 2^-[`CUTOFF_BITS`] are left out. As both values and centroids are sorted, the clusters that
//! matter to a block of values are consecutive: a [`Window`].

use std::ops::Range;

use pulp::Simd;

use crate::lanes::{dispatch, Kernel, Lanes, Wide, LANES};

/// A term of the softmax is left out when it is below 2^-72 of the largest: 256 such terms change a sum in f64 by less
/// than a rounding.
pub(crate) const CUTOFF_BITS: f64 = 72.0;

/// Most clusters of a palette.
pub(crate) const MOST_CLUSTERS: usize = 256;

/// Blocks of lanes that are one part of the work (1024 values).
pub(crate) const PART: usize = 1024 / LANES;

/// Consecutive clusters, in ascending order of their centroids.
pub(crate) type Window = Range<usize>;

/// Sorted centroids at a temperature.
pub(crate) struct Attention<'c> {
    centroids_k: &'c [f64],
    /// sqrt(log2(e) / tau): the square of a scaled distance is a binary exponent.
    scale: f64,
    /// Distance at which a term relative to an exact match is at the cutoff.
    reach: f64,
}

impl<'c> Attention<'c> {
    /// `centroids_k` ascending, at most [`MOST_CLUSTERS`].
    pub(crate) fn new(centroids_k: &'c [f64], tau: f64) -> Self {
        let scale = (std::f64::consts::LOG2_E / tau).sqrt();
        Attention {
            centroids_k,
            scale,
            reach: CUTOFF_BITS.sqrt() / scale,
        }
    }

    /// The binary exponent -(u - c_k)^2 log2(e) / tau.
    pub(crate) fn exponent(&self, u: f64, k: usize) -> f64 {
        let z = (u - self.centroids_k[k]) * self.scale;
        -z * z
    }

    /// The clusters that matter to any value between `low` and `high`.
    ///
    /// A cluster matters to u when (u - c)^2 <= d(u)^2 + reach^2, with d the distance to the nearest centroid. Both ends of that interval
    /// around u grow with u, so those of `low` and `high` bound all values between.
    #[inline(always)]
    fn window(&self, low: f64, high: f64) -> Window {
        /// Covers the rounding of the interval's ends; a cluster too many does no harm.
        const SLACK: f64 = 1.0 + 1e-12;
        let c = self.centroids_k;
        let radius = |u: f64| {
            let right = c.partition_point(|&c| c < u);
            let to_left = if right > 0 { u - c[right - 1] } else { f64::INFINITY };
            let to_right = if right < c.len() { c[right] - u } else { f64::INFINITY };
            let nearest = to_left.min(to_right);
            (nearest * nearest + self.reach * self.reach).sqrt() * SLACK + u.abs() * (SLACK - 1.0)
        };
        let first = low - radius(low);
        let last = high + radius(high);
        c.partition_point(|&c| c < first)..c.partition_point(|&c| c <= last)
    }

    /// Unnormalised attention 2^(x_uk - max_k x_uk) of eight values to the clusters of a window, and its sum over the clusters.
    #[inline(always)]
    fn weigh<S: Simd>(&self, simd: S, u: Wide<S>, window: &Window, weights_k: &mut [Lanes]) -> Wide<S> {
        let scale = Wide::splat(simd, self.scale);
        let mut nearest = Wide::splat(simd, f64::INFINITY);
        for (weight, &c) in weights_k.iter_mut().zip(&self.centroids_k[window.clone()]) {
            let z = (u - Wide::splat(simd, c)) * scale;
            let square = z * z;
            nearest = nearest.min(square);
            *weight = square.lanes();
        }
        let mut sum = Wide::zero(simd);
        for weight in weights_k.iter_mut() {
            let exp = (nearest - weight.wide(simd)).exp2();
            sum += exp;
            *weight = exp.lanes();
        }
        sum
    }
}

/// What is done with the attention of each block of values.
pub(crate) trait Pass {
    /// `block`: position of the block in the swept values. `weights_k`: unnormalised attention to the clusters of `window`,
    /// `sum`: its sum. The pass may overwrite `weights_k`.
    ///
    /// Implementations must be `#[inline(always)]`.
    fn block<S: Simd>(
        &mut self,
        simd: S,
        block: usize,
        u: Wide<S>,
        window: Window,
        weights_k: &mut [Lanes],
        sum: Wide<S>,
    );
}

/// Runs a pass over packed ascending values.
pub(crate) fn sweep<P: Pass>(attention: &Attention<'_>, values_u: &[Lanes], pass: &mut P) {
    struct Sweep<'a, 'c, P> {
        attention: &'a Attention<'c>,
        values_u: &'a [Lanes],
        pass: &'a mut P,
    }
    impl<P: Pass> Kernel for Sweep<'_, '_, P> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let mut weights_k = [Lanes::ZERO; MOST_CLUSTERS];
            for (block, &u) in self.values_u.iter().enumerate() {
                let window = self.attention.window(u.0[0], u.0[LANES - 1]);
                let weights_k = &mut weights_k[..window.len()];
                let u = u.wide(simd);
                let sum = self.attention.weigh(simd, u, &window, weights_k);
                self.pass.block(simd, block, u, window, weights_k, sum);
            }
        }
    }
    dispatch(Sweep {
        attention,
        values_u,
        pass,
    });
}
