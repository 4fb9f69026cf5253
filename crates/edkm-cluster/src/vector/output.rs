//! The clustered vectors: w~_i = sum_k A_ik c_k.

use crate::lanes::{Arithmetic, Lanes};
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
    fn group<A: Arithmetic>(&mut self, group: &Group<'_, D>, rows: Rows<'_>) {
        let mut mean = [Lanes::ZERO; D];
        for (&k, weight) in rows.clusters.iter().zip(rows.weights) {
            for (mean, &after) in mean.iter_mut().zip(&self.after_kd[k]) {
                *mean = A::mul_add(*weight, Lanes::splat(after), *mean);
            }
        }
        // Zero where zeros are kept.
        let scale = rows.sum.recip() * group.counts;
        for x in &mut mean {
            *x = *x * scale;
        }
        for (lane, range) in group.places() {
            for (out, mean) in self.out[range].iter_mut().zip(&mean) {
                *out = mean.0[lane] as f32;
            }
        }
    }
}
