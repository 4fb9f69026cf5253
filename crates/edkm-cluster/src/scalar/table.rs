//! The clustered value of each distinct value: w~_u = sum_k A_uk c_k.

use pulp::Simd;

use crate::lanes::{Lanes, Wide};
use crate::parallel::Execution;
use crate::scalar::attention::{sweep, Attention, Pass, Window, PART};
use crate::scalar::order::Order;

/// Clustered values of packed ascending values, by the assignment to `before_k` and the centroids `after_k` that it produced.
pub(crate) fn clustered(
    values_u: &[Lanes],
    before_k: &[f64],
    after_k: &[f64],
    tau: f64,
    execution: Execution,
) -> Vec<Lanes> {
    let order = Order::of(before_k);
    let before_k = order.sorted(before_k);
    let after_k = order.sorted(after_k);
    let attention = Attention::new(&before_k, tau);
    let mut clustered_u = vec![Lanes::ZERO; values_u.len()];
    let parts: Vec<_> = values_u.chunks(PART).zip(clustered_u.chunks_mut(PART)).collect();
    execution.map(parts, |(values_u, clustered_u)| {
        sweep(
            &attention,
            values_u,
            &mut Mean {
                after_k: &after_k,
                clustered_u,
            },
        )
    });
    clustered_u
}

struct Mean<'a> {
    after_k: &'a [f64],
    clustered_u: &'a mut [Lanes],
}

impl Pass for Mean<'_> {
    #[inline(always)]
    fn block<S: Simd>(
        &mut self,
        simd: S,
        block: usize,
        _: Wide<S>,
        window: Window,
        weights_k: &mut [Lanes],
        sum: Wide<S>,
    ) {
        let mut weighted = Wide::zero(simd);
        for (weight, &c) in weights_k.iter().zip(&self.after_k[window]) {
            weighted = weight.wide(simd).mul_add(Wide::splat(simd, c), weighted);
        }
        self.clustered_u[block] = (weighted * sum.recip()).lanes();
    }
}
