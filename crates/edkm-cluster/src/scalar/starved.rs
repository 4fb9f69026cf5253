//! Clusters that hardly any weight is assigned to.
//!
//! The fast passes leave out terms of the softmax that cannot matter to a *value*. They may be all that a *cluster* has: one with no weight
//! near it still moves to a well-defined place, the mean of the weights weighted by their tiny attentions. Such clusters are rare (the
//! repetition that moves them leads them back to weights), so they are done here, exactly and slowly, with all clusters and in logarithms.
//!
//! Axes: U distinct values, K clusters in ascending order.

use crate::lanes::{Lanes, LANES};
use crate::parallel::Execution;
use crate::scalar::attention::{Attention, CUTOFF_BITS, PART};
use crate::scalar::rows::Rows;

/// Whether terms that were left out may matter to a cluster of mass 2^`log_mass`, of `mass` weights in all.
///
/// Each weight may have lost 2^-72; a cluster with at least 2^-42 for each weight there is so misses less than 2^-30 of its mass.
pub(crate) fn is_starved(log_mass: f64, mass: f64) -> bool {
    const KEPT_BITS: f64 = 30.0;
    log_mass < mass.log2() - (CUTOFF_BITS - KEPT_BITS)
}

/// Replaces centroid and log2 mass of the starved clusters.
pub(crate) fn update(
    rows: &Rows,
    attention: &Attention<'_>,
    starved: &[usize],
    execution: Execution,
    centroids_k: &mut [f64],
    log_mass_k: &mut [f64],
) {
    let log_sum_u = log_normaliser(rows, attention, centroids_k.len(), execution);
    for &k in starved {
        let log_attention_u: Vec<f64> = values(rows)
            .zip(&log_sum_u)
            .map(|((u, count), log_sum)| attention.exponent(u, k) - log_sum + count.log2())
            .collect();
        let largest = log_attention_u.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut mass, mut sum) = (0.0, 0.0);
        for ((u, _), log_attention) in values(rows).zip(&log_attention_u) {
            let share = (log_attention - largest).exp2();
            mass += share;
            sum += share * u;
        }
        centroids_k[k] = sum / mass;
        log_mass_k[k] = largest + mass.log2();
    }
}

/// What the starved clusters add to a backward repetition.
pub(crate) struct Adjoint {
    /// sum over the starved clusters of A_uk dL/dA_uk, for one weight of each value.
    pub(crate) mean_u: Vec<Lanes>,
    /// Gradient for the previous centroids, by place.
    pub(crate) previous_k: Vec<f64>,
}

/// A starved cluster in a backward repetition.
pub(crate) struct Cluster {
    /// Place in ascending order of the centroids that the repetition started from.
    pub(crate) place: usize,
    /// The centroid that the repetition produced.
    pub(crate) after: f64,
    /// Gradient for that centroid.
    pub(crate) gradient: f64,
    /// log2 of its mass.
    pub(crate) log_mass: f64,
}

/// Takes the gradient of the starved clusters' new centroids back. Adds to `shift_u` what one weight of each value receives.
///
/// All of it is proportional to the attention divided by the cluster's mass, which is an ordinary number although both are tiny.
pub(crate) fn backward(
    rows: &Rows,
    attention: &Attention<'_>,
    starved: &[Cluster],
    before_k: &[f64],
    tau: f64,
    execution: Execution,
    shift_u: &mut [Lanes],
) -> Adjoint {
    let log_sum_u = log_normaliser(rows, attention, before_k.len(), execution);
    let mut mean_u = vec![Lanes::ZERO; rows.values_u.len()];
    let mut previous_k = vec![0.0; before_k.len()];
    for cluster in starved {
        let k = cluster.place;
        // a value that takes no part has none in the cluster's mass either, and its share of that may be any number
        for (i, (u, count)) in values(rows).enumerate().filter(|(_, (_, count))| *count > 0.0) {
            let share = (attention.exponent(u, k) - log_sum_u[i] - cluster.log_mass).exp2();
            let through_attention = share * (u - cluster.after) * cluster.gradient;
            let through_distance = 2.0 / tau * through_attention * (u - before_k[k]);
            let (block, lane) = (i / LANES, i % LANES);
            mean_u[block].0[lane] += through_attention;
            shift_u[block].0[lane] += share * cluster.gradient - through_distance;
            previous_k[k] += count * through_distance;
        }
    }
    Adjoint { mean_u, previous_k }
}

fn values(rows: &Rows) -> impl Iterator<Item = (f64, f64)> + '_ {
    Lanes::unpack(&rows.values_u).zip(Lanes::unpack(&rows.counts_u))
}

/// log2 of sum_k 2^x_uk, over all clusters.
fn log_normaliser(rows: &Rows, attention: &Attention<'_>, clusters: usize, execution: Execution) -> Vec<f64> {
    let parts: Vec<_> = rows.values_u.chunks(PART).collect();
    let parts = execution.map(parts, |values_u| {
        let log_sum = |u| {
            let exponents = (0..clusters).map(|k| attention.exponent(u, k));
            let largest = exponents.clone().fold(f64::NEG_INFINITY, f64::max);
            largest + exponents.map(|x| (x - largest).exp2()).sum::<f64>().log2()
        };
        Lanes::unpack(values_u).map(log_sum).collect::<Vec<f64>>()
    });
    parts.concat()
}
