//! One repetition of the clustering: soft assignment, then every centroid moves to the weighted mean.
//!
//! S_k = sum_u n_u A_uk, N_k = sum_u n_u A_uk u, c_k = N_k / S_k (DKM, arXiv 2108.12659, section 3.2, over distinct values).

use pulp::Simd;

use crate::lanes::{Lanes, Wide};
use crate::parallel::{sum_in_order, Execution};
use crate::repeat::Moved;
use crate::scalar::attention::{sweep, Attention, Pass, Window, PART};
use crate::scalar::order::Order;
use crate::scalar::rows::Rows;
use crate::scalar::starved;

/// Moves all centroids but the pinned one.
///
/// A cluster that hardly any weight is assigned to ([`starved`]) moves as the definition says, too: to the mean of the weights
/// that come nearest to choosing it. So no cluster is ever divided by zero, and an empty one is led back to weights.
pub(crate) fn update(rows: &Rows, centroids_k: &[f64], tau: f64, pinned: Option<usize>, execution: Execution) -> Moved {
    let order = Order::of(centroids_k);
    let sorted_k = order.sorted(centroids_k);
    let attention = Attention::new(&sorted_k, tau);
    let clusters = sorted_k.len();

    let parts: Vec<_> = rows.values_u.chunks(PART).zip(rows.counts_u.chunks(PART)).collect();
    let sums = sum_in_order(execution.map(parts, |(values_u, counts_u)| {
        let mut pass = Accumulate {
            counts_u,
            mass_k: vec![Lanes::ZERO; clusters],
            sum_k: vec![Lanes::ZERO; clusters],
        };
        sweep(&attention, values_u, &mut pass);
        pass.mass_k.iter().chain(&pass.sum_k).map(|lanes| lanes.sum()).collect()
    }));
    let (mass_k, sum_k) = sums.split_at(clusters);

    let mut next_k: Vec<f64> = sum_k.iter().zip(mass_k).map(|(sum, mass)| sum / mass).collect();
    let mut log_mass_k: Vec<f64> = mass_k.iter().map(|mass| mass.log2()).collect();
    let starved: Vec<usize> = (0..clusters)
        .filter(|&k| starved::is_starved(log_mass_k[k], rows.mass))
        .collect();
    if !starved.is_empty() {
        starved::update(rows, &attention, &starved, execution, &mut next_k, &mut log_mass_k);
    }

    let mut centroids_after_k = order.unsorted(&next_k);
    if let Some(k) = pinned {
        centroids_after_k[k] = centroids_k[k];
    }
    Moved {
        centroids_kd: centroids_after_k,
        log_mass_k: order.unsorted(&log_mass_k),
    }
}

struct Accumulate<'a> {
    counts_u: &'a [Lanes],
    mass_k: Vec<Lanes>,
    sum_k: Vec<Lanes>,
}

impl Pass for Accumulate<'_> {
    #[inline(always)]
    fn block<S: Simd>(
        &mut self,
        simd: S,
        block: usize,
        u: Wide<S>,
        window: Window,
        weights_k: &mut [Lanes],
        sum: Wide<S>,
    ) {
        let share = self.counts_u[block].wide(simd) * sum.recip();
        let mass_k = &mut self.mass_k[window.clone()];
        let sum_k = &mut self.sum_k[window];
        for ((weight, mass), sum) in weights_k.iter().zip(mass_k).zip(sum_k) {
            let a = weight.wide(simd) * share;
            mass.add(simd, a);
            sum.add_product(simd, a, u);
        }
    }
}
