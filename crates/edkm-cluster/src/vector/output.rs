//! The clustered vectors: w~_i = sum_k A_ik c_k.

use pulp::Simd;

use crate::lanes::Wide;
use crate::vector::attention::{Pass, Rows};
use crate::vector::tile::Group;

/// Writes the clustered vectors of a tile.
pub(crate) struct Mean<'a, const D: usize> {
    /// The centroids that the assignment produced.
    pub(crate) after_kd: &'a [[f64; D]],
    pub(crate) out: &'a mut [f32],
}

impl<const D: usize> Pass<D> for Mean<'_, D> {
    #[inline(always)]
    fn group<S: Simd>(&mut self, simd: S, group: &Group<'_, D>, rows: Rows<'_, S>) {
        let mut mean = [Wide::zero(simd); D];
        for (&k, weight) in rows.clusters.iter().zip(rows.weights) {
            let weight = weight.wide(simd);
            for (mean, &after) in mean.iter_mut().zip(&self.after_kd[k as usize]) {
                *mean = weight.mul_add(Wide::splat(simd, after), *mean);
            }
        }
        // Zero where zeros are kept.
        let scale = rows.sum.recip() * group.counts.wide(simd);
        group.store(&mean.map(|mean| (mean * scale).lanes()), self.out);
    }
}
