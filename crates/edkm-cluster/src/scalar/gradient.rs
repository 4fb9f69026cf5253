//! The backward pass over distinct values: dL/dw_i = g_i s_u + t_u for a weight of value u.
//!
//! The *slope* s_u is what the clustered weight does when this one weight moves through its own row of the attention map; the *shift* t_u is
//! what reaches it through the centroids. `DKM` (arXiv 2108.12659) leaves this to automatic differentiation of the dense map; over distinct
//! values it needs n_u, the number of weights, and G_u, the sum of their upstream gradients.
//!
//! Axes: U distinct values in ascending order, K clusters in ascending order of the centroids that the repetition started from.

use pulp::Simd;

use crate::fixed_point;
use crate::lanes::{Lanes, Wide};
use crate::parallel::{sum_in_order, Execution};
use crate::scalar::attention::{sweep, Attention, Pass, Window, PART};
use crate::scalar::order::Order;
use crate::scalar::rows::Rows;
use crate::scalar::starved;
use crate::trajectory::PaletteTrajectory;
use crate::GradientMode;

/// s_u and t_u of every distinct value.
pub(crate) struct Gradient {
    pub(crate) slope_u: Vec<Lanes>,
    pub(crate) shift_u: Vec<Lanes>,
}

/// Differentiates all repetitions of a palette that are kept; with [`GradientMode::Implicit`] the last one as a fixed point.
///
/// `upstream_u`: G_u.
pub(crate) fn through_repetitions(
    rows: &Rows,
    upstream_u: &[Lanes],
    trajectory: &PaletteTrajectory,
    mode: GradientMode,
    execution: Execution,
) -> Gradient {
    let mut gradient = Gradient {
        slope_u: vec![Lanes::ZERO; rows.values_u.len()],
        shift_u: vec![Lanes::ZERO; rows.values_u.len()],
    };
    // without a value: weights that are not those of the forward pass, and no numbers
    let Some(last) = trajectory.repetitions().last().filter(|_| !rows.values_u.is_empty()) else {
        return gradient;
    };
    let mut after_grad_k = outputs(
        rows,
        upstream_u,
        &last,
        trajectory.tau,
        execution,
        &mut gradient.slope_u,
    );
    for (i, repetition) in trajectory.repetitions().enumerate().rev() {
        let through_outputs = (i + 1 == trajectory.len()).then_some(upstream_u);
        after_grad_k = repetition_backward(
            rows,
            through_outputs,
            &repetition,
            &after_grad_k,
            trajectory,
            execution,
            &mut gradient.shift_u,
        );
    }
    if mode == GradientMode::Implicit {
        fixed_point::solve(after_grad_k, |after_grad_k| {
            repetition_backward(
                rows,
                None,
                &last,
                after_grad_k,
                trajectory,
                execution,
                &mut gradient.shift_u,
            )
        });
    }
    gradient
}

/// One repetition of the forward pass, by cluster.
#[derive(Clone, Copy)]
pub(crate) struct Repetition<'t> {
    pub(crate) before_k: &'t [f64],
    pub(crate) after_k: &'t [f64],
    pub(crate) log_mass_k: &'t [f64],
}

/// The clustered values w~_u = sum_k A_uk c_k: writes the slope of each, returns the gradient for c, dc_k = sum_u A_uk G_u, by cluster.
///
/// s_u = sum_k c_k dA_uk/du = 2/tau sum_k A_uk (c_k - w~_u) c'_k with c' the centroids of the assignment.
fn outputs(
    rows: &Rows,
    upstream_u: &[Lanes],
    last: &Repetition<'_>,
    tau: f64,
    execution: Execution,
    slope_u: &mut [Lanes],
) -> Vec<f64> {
    let order = Order::of(last.before_k);
    let before_k = order.sorted(last.before_k);
    let after_k = order.sorted(last.after_k);
    let attention = Attention::new(&before_k, tau);
    let parts: Vec<_> = rows
        .values_u
        .chunks(PART)
        .zip(upstream_u.chunks(PART))
        .zip(slope_u.chunks_mut(PART))
        .collect();
    let grad_k = sum_in_order(execution.map(parts, |((values_u, upstream_u), slope_u)| {
        let mut pass = Outputs {
            before_k: &before_k,
            after_k: &after_k,
            two_over_tau: 2.0 / tau,
            upstream_u,
            slope_u,
            after_grad_k: vec![Lanes::ZERO; before_k.len()],
        };
        sweep(&attention, values_u, &mut pass);
        pass.after_grad_k.iter().map(|lanes| lanes.sum()).collect()
    }));
    order.unsorted(&grad_k)
}

struct Outputs<'a> {
    before_k: &'a [f64],
    after_k: &'a [f64],
    two_over_tau: f64,
    upstream_u: &'a [Lanes],
    slope_u: &'a mut [Lanes],
    after_grad_k: Vec<Lanes>,
}

impl Pass for Outputs<'_> {
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
        let before_k = &self.before_k[window.clone()];
        let after_k = &self.after_k[window.clone()];
        let scale = sum.recip();
        let upstream = self.upstream_u[block].wide(simd);
        let mut clustered = Wide::zero(simd);
        for ((weight, &after), grad) in weights_k.iter_mut().zip(after_k).zip(&mut self.after_grad_k[window]) {
            let a = weight.wide(simd) * scale;
            clustered = a.mul_add(Wide::splat(simd, after), clustered);
            grad.add_product(simd, a, upstream);
            *weight = a.lanes();
        }
        let mut slope = Wide::zero(simd);
        for ((weight, &after), &before) in weights_k.iter().zip(after_k).zip(before_k) {
            // The sum over k of A (c - w~) is zero: distances to u instead of c' lose no digits.
            let deviation = weight.wide(simd) * (Wide::splat(simd, after) - clustered);
            slope = deviation.mul_add(Wide::splat(simd, before) - u, slope);
        }
        self.slope_u[block] = (slope * Wide::splat(simd, self.two_over_tau)).lanes();
    }
}

/// Takes dL/dc of the centroids that a repetition produced back to those that it started from, and adds to the shift.
///
/// With c = N / S, one weight of value u has dL/dA_uk = h_uk = (u - c_k) dc_k / S_k; through the softmax
/// dL/dx_uk = A_uk (h_uk - sum_j A_uj h_uj), and x_uk = -(u - c'_k)^2 / tau leads to u and to c'. All n_u weights of a value move c';
/// in the last repetition so does G_u through the clustered values, A_uk (c_k - w~_u) G_u.
fn repetition_backward(
    rows: &Rows,
    through_outputs: Option<&[Lanes]>,
    repetition: &Repetition<'_>,
    after_grad_k: &[f64],
    trajectory: &PaletteTrajectory,
    execution: Execution,
    shift_u: &mut [Lanes],
) -> Vec<f64> {
    let tau = trajectory.tau;
    let order = Order::of(repetition.before_k);
    let before_k = order.sorted(repetition.before_k);
    let after_k = order.sorted(repetition.after_k);
    let attention = Attention::new(&before_k, tau);

    let mut starved = Vec::new();
    // dN_k = dc_k / S_k of the clusters that the fast pass is right for.
    let mut sum_grad_k = vec![0.0; before_k.len()];
    for (place, &k) in order.clusters().iter().enumerate() {
        let (gradient, log_mass) = (after_grad_k[k], repetition.log_mass_k[k]);
        if trajectory.pinned == Some(k) {
            continue;
        } else if !starved::is_starved(log_mass, rows.mass) {
            sum_grad_k[place] = gradient * (-log_mass).exp2();
        } else if gradient != 0.0 {
            starved.push(starved::Cluster {
                place,
                after: after_k[place],
                gradient,
                log_mass,
            });
        }
    }
    let starved = (!starved.is_empty())
        .then(|| starved::backward(rows, &attention, &starved, &before_k, tau, execution, shift_u));

    let parts: Vec<_> = rows
        .values_u
        .chunks(PART)
        .zip(shift_u.chunks_mut(PART))
        .enumerate()
        .collect();
    let mut before_grad_k = sum_in_order(execution.map(parts, |(part, (values_u, shift_u))| {
        let here = part * PART..part * PART + values_u.len();
        let mut pass = Backward {
            before_k: &before_k,
            after_k: &after_k,
            sum_grad_k: &sum_grad_k,
            two_over_tau: 2.0 / tau,
            counts_u: &rows.counts_u[here.clone()],
            upstream_u: through_outputs.map(|upstream_u| &upstream_u[here.clone()]),
            starved_mean_u: starved.as_ref().map(|starved| &starved.mean_u[here]),
            shift_u,
            before_grad_k: vec![Lanes::ZERO; before_k.len()],
        };
        sweep(&attention, values_u, &mut pass);
        pass.before_grad_k.iter().map(|lanes| lanes.sum()).collect()
    }));
    for (grad, starved) in before_grad_k
        .iter_mut()
        .zip(starved.iter().flat_map(|starved| &starved.previous_k))
    {
        *grad += starved;
    }
    order.unsorted(&before_grad_k)
}

struct Backward<'a> {
    before_k: &'a [f64],
    after_k: &'a [f64],
    /// dN_k = dc_k / S_k.
    sum_grad_k: &'a [f64],
    two_over_tau: f64,
    counts_u: &'a [Lanes],
    upstream_u: Option<&'a [Lanes]>,
    starved_mean_u: Option<&'a [Lanes]>,
    shift_u: &'a mut [Lanes],
    before_grad_k: Vec<Lanes>,
}

impl Pass for Backward<'_> {
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
        let before_k = &self.before_k[window.clone()];
        let after_k = &self.after_k[window.clone()];
        let sum_grad_k = &self.sum_grad_k[window.clone()];
        let before_grad_k = &mut self.before_grad_k[window];
        let scale = sum.recip();
        let two_over_tau = Wide::splat(simd, self.two_over_tau);
        let count = self.counts_u[block].wide(simd);
        let upstream = self
            .upstream_u
            .map_or(Lanes::ZERO, |upstream_u| upstream_u[block])
            .wide(simd);

        let mut mean = self
            .starved_mean_u
            .map_or(Lanes::ZERO, |mean_u| mean_u[block])
            .wide(simd);
        let mut clustered = Wide::zero(simd);
        let mut direct = Wide::zero(simd);
        for ((weight, &after), &sum_grad) in weights_k.iter_mut().zip(after_k).zip(sum_grad_k) {
            let (after, sum_grad) = (Wide::splat(simd, after), Wide::splat(simd, sum_grad));
            let a = weight.wide(simd) * scale;
            let share = a * sum_grad;
            direct += share;
            mean = share.mul_add(u - after, mean);
            clustered = a.mul_add(after, clustered);
            *weight = a.lanes();
        }

        let mut through_distance = Wide::zero(simd);
        let clusters = weights_k.iter().zip(after_k).zip(before_k).zip(sum_grad_k);
        for ((((weight, &after), &before), &sum_grad), grad) in clusters.zip(before_grad_k) {
            let (after, sum_grad) = (Wide::splat(simd, after), Wide::splat(simd, sum_grad));
            let a = weight.wide(simd);
            let distance = u - Wide::splat(simd, before);
            let exponent_grad = a * ((u - after) * sum_grad - mean);
            through_distance = exponent_grad.mul_add(distance, through_distance);
            let outputs_grad = a * (after - clustered) * upstream;
            grad.add_product(
                simd,
                exponent_grad.mul_add(count, outputs_grad),
                distance * two_over_tau,
            );
        }
        self.shift_u[block].add(simd, direct - through_distance * two_over_tau);
    }
}
