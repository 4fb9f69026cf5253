//! The backward pass over vectors.
//!
//! As for scalars ([`crate::scalar::gradient`]), but every vector has its own gradient: with q_ik = (w_i - c_k) . dc_k / S_k, and in the last
//! repetition g_i . c_k besides, dL/dx_ik = A_ik (q_ik - sum_j A_ij q_ij); x_ik = -|w_i - c'_k|^2 / tau leads to w_i and to c'.

use std::marker::PhantomData;

use pulp::Simd;

use crate::fixed_point;
use crate::lanes::{Lanes, Wide};
use crate::parallel::sum_in_order;
use crate::target::Target;
use crate::vector::attention::{sweep, Attention, Pass, Rows};
use crate::vector::in_vectors;
use crate::vector::palette::Palette;
use crate::vector::starved;
use crate::vector::tile::Group;
use crate::GradientMode;

/// One repetition of the forward pass.
pub(crate) struct Repetition<const D: usize> {
    pub(crate) before_kd: Vec<[f64; D]>,
    pub(crate) after_kd: Vec<[f64; D]>,
    pub(crate) log_mass_k: Vec<f64>,
}

/// Differentiates all repetitions of a palette (not empty) that are kept, with [`GradientMode::Implicit`] the last one as a fixed point, and
/// writes the gradient of the weights.
pub(crate) fn through_repetitions<const D: usize>(
    palette: &Palette<'_, D>,
    repetitions: &[Repetition<D>],
    tau: f64,
    pinned: Option<usize>,
    mode: GradientMode,
    mut target: Target<'_>,
) {
    let Some(last) = repetitions.last() else {
        return;
    };
    let mut after_grad_kd = outputs(palette, last, tau, target.upstream());
    for (i, repetition) in repetitions.iter().enumerate().rev() {
        let backward = if i + 1 == repetitions.len() {
            backward::<Last, D>
        } else {
            backward::<Earlier, D>
        };
        after_grad_kd = backward(palette, repetition, &after_grad_kd, tau, pinned, target.reborrow());
    }
    if mode == GradientMode::Implicit {
        fixed_point::solve(after_grad_kd, |after_grad_kd| {
            backward::<Earlier, D>(palette, last, after_grad_kd, tau, pinned, target.reborrow())
        });
    }
}

/// The gradient for the centroids of the clustered vectors, dc_k = sum_i A_ik g_i.
fn outputs<const D: usize>(
    palette: &Palette<'_, D>,
    last: &Repetition<D>,
    tau: f64,
    upstream: &[f32],
) -> Vec<[f64; D]> {
    let cells = palette.cells(&last.before_kd);
    let attention = Attention::new(&cells, &last.before_kd, tau);
    let grad = sum_in_order(palette.map_tiles(&cells, |weights, tile| {
        let mut pass = Outputs {
            upstream: &upstream[weights],
            grad_kd: vec![[Lanes::ZERO; D]; last.before_kd.len()],
        };
        sweep(&attention, tile, &mut pass);
        pass.grad_kd.iter().flatten().map(|lanes| lanes.sum()).collect()
    }));
    in_vectors(&grad)
}

struct Outputs<'a, const D: usize> {
    upstream: &'a [f32],
    grad_kd: Vec<[Lanes; D]>,
}

impl<const D: usize> Pass<D> for Outputs<'_, D> {
    #[inline(always)]
    fn group<S: Simd>(&mut self, simd: S, group: &Group<'_, D>, rows: Rows<'_, S>) {
        let scale = rows.sum.recip() * group.counts.wide(simd);
        let g = group.load(self.upstream);
        for (&k, weight) in rows.clusters.iter().zip(rows.weights) {
            let a = weight.wide(simd) * scale;
            for (grad, g) in self.grad_kd[k as usize].iter_mut().zip(&g) {
                grad.add_product(simd, a, g.wide(simd));
            }
        }
    }
}

/// Which repetition is differentiated.
trait Role {
    /// Whether the clustered vectors come from it: then the upstream gradient comes in, and what was in its place is replaced.
    const MAKES_OUTPUTS: bool;
}

struct Last;

impl Role for Last {
    const MAKES_OUTPUTS: bool = true;
}

struct Earlier;

impl Role for Earlier {
    const MAKES_OUTPUTS: bool = false;
}

/// A cluster in a backward repetition.
struct Cluster<const D: usize> {
    before: [f64; D],
    after: [f64; D],
    /// dc_k / S_k; zero for the pinned and the starved.
    sum_grad: [f64; D],
    /// c_k . dc_k / S_k
    offset: f64,
}

/// A starved cluster in a backward repetition.
struct Starved<const D: usize> {
    k: usize,
    grad: [f64; D],
    log_mass: f64,
}

/// Takes dL/dc of the centroids that a repetition produced back to those that it started from, and adds to the gradient of the weights.
fn backward<R: Role, const D: usize>(
    palette: &Palette<'_, D>,
    repetition: &Repetition<D>,
    after_grad_kd: &[[f64; D]],
    tau: f64,
    pinned: Option<usize>,
    target: Target<'_>,
) -> Vec<[f64; D]> {
    let cells = palette.cells(&repetition.before_kd);
    let attention = Attention::new(&cells, &repetition.before_kd, tau);
    let mut starved = Vec::new();
    let mut clusters = Vec::new();
    for (k, (&before, &after)) in repetition.before_kd.iter().zip(&repetition.after_kd).enumerate() {
        let (grad, log_mass) = (after_grad_kd[k], repetition.log_mass_k[k]);
        let mut sum_grad = [0.0; D];
        if pinned == Some(k) {
            // It does not move.
        } else if !starved::is_starved(log_mass, palette.number()) {
            sum_grad = grad.map(|g| g * (-log_mass).exp2());
        } else if grad != [0.0; D] {
            starved.push(Starved { k, grad, log_mass });
        }
        let offset = after.iter().zip(&sum_grad).map(|(c, g)| c * g).sum();
        clusters.push(Cluster {
            before,
            after,
            sum_grad,
            offset,
        });
    }
    let sums = sum_in_order(palette.map_tiles_to(&cells, target, |target, tile| {
        let mut pass = Backward::<R, D> {
            attention: &attention,
            clusters: &clusters,
            starved: &starved,
            two_over_tau: 2.0 / tau,
            target,
            pulls_k: vec![Pull::NONE; clusters.len()],
            role: PhantomData,
        };
        sweep(&attention, tile, &mut pass);
        pass.pulls_k
            .iter()
            .flat_map(|pull| pull.moments.map(Lanes::sum).into_iter().chain([pull.sum.sum()]))
            .collect()
    }));
    let pulls = sums.chunks_exact(D + 1).zip(&repetition.before_kd);
    pulls
        .map(|(pull, c)| std::array::from_fn(|j| 2.0 / tau * (pull[j] - c[j] * pull[D])))
        .collect()
}

/// Sums over vectors of e = dL/dx_ik and of e w_i, of which the gradient of the centroid c' is made: 2/tau sum_i e (w_i - c').
#[derive(Clone)]
struct Pull<const D: usize> {
    sum: Lanes,
    moments: [Lanes; D],
}

impl<const D: usize> Pull<D> {
    const NONE: Self = Pull {
        sum: Lanes::ZERO,
        moments: [Lanes::ZERO; D],
    };

    #[inline(always)]
    fn add<S: Simd>(&mut self, simd: S, exponent_grad: Wide<S>, w: &[Lanes; D]) {
        self.sum.add(simd, exponent_grad);
        for (moment, w) in self.moments.iter_mut().zip(w) {
            moment.add_product(simd, exponent_grad, w.wide(simd));
        }
    }
}

struct Backward<'a, 'g, R, const D: usize> {
    attention: &'a Attention<'a, D>,
    clusters: &'a [Cluster<D>],
    starved: &'a [Starved<D>],
    two_over_tau: f64,
    target: Target<'g>,
    pulls_k: Vec<Pull<D>>,
    role: PhantomData<R>,
}

impl<R: Role, const D: usize> Pass<D> for Backward<'_, '_, R, D> {
    #[inline(always)]
    fn group<S: Simd>(&mut self, simd: S, group: &Group<'_, D>, rows: Rows<'_, S>) {
        let zero = Wide::zero(simd);
        let splat = |x| Wide::splat(simd, x);
        let w = group.w.map(
            #[inline(always)]
            |w| w.wide(simd),
        );
        let g = if R::MAKES_OUTPUTS {
            group.load(self.target.upstream())
        } else {
            [Lanes::ZERO; D]
        };

        // Each vector's sum over clusters of A dc / S, of A q, of e, and of e c'.
        let mut direct = [zero; D];
        let mut mean = zero;
        let mut pull_sum = zero;
        let mut pull_center = [zero; D];

        if !self.starved.is_empty() {
            let log_sum = starved::log_sum(simd, &rows);
            for starved in self.starved {
                let cluster = &self.clusters[starved.k];
                let distance = self.attention.distance(simd, &group.w, starved.k);
                // counts are 1, or 0 for vectors that take no part, whose share of a mass without them may be any number
                let counts = group.counts.wide(simd);
                let log_share = (zero - distance - log_sum - splat(starved.log_mass)) * counts;
                let share = log_share.exp2() * counts;
                let mut exponent_grad = zero;
                for j in 0..D {
                    let grad = share * splat(starved.grad[j]);
                    direct[j] += grad;
                    exponent_grad = grad.mul_add(w[j] - splat(cluster.after[j]), exponent_grad);
                }
                mean += exponent_grad;
                pull_sum += exponent_grad;
                for (center, &before) in pull_center.iter_mut().zip(&cluster.before) {
                    *center = exponent_grad.mul_add(splat(before), *center);
                }
                self.pulls_k[starved.k].add(simd, exponent_grad, &group.w);
            }
        }

        let scale = rows.sum.recip() * group.counts.wide(simd);
        for ((&k, weight), spare) in rows
            .clusters
            .iter()
            .zip(rows.weights.iter_mut())
            .zip(rows.spare.iter_mut())
        {
            let cluster = &self.clusters[k as usize];
            let a = weight.wide(simd) * scale;
            let mut q = splat(-cluster.offset);
            for j in 0..D {
                let sum_grad = splat(cluster.sum_grad[j]);
                q = w[j].mul_add(sum_grad, q);
                direct[j] = a.mul_add(sum_grad, direct[j]);
                if R::MAKES_OUTPUTS {
                    q = g[j].wide(simd).mul_add(splat(cluster.after[j]), q);
                }
            }
            mean = a.mul_add(q, mean);
            *weight = a.lanes();
            *spare = q.lanes();
        }
        for ((&k, weight), spare) in rows.clusters.iter().zip(rows.weights.iter()).zip(rows.spare.iter()) {
            let before = &self.clusters[k as usize].before;
            let exponent_grad = weight.wide(simd) * (spare.wide(simd) - mean);
            pull_sum += exponent_grad;
            for (center, &before) in pull_center.iter_mut().zip(before) {
                *center = exponent_grad.mul_add(splat(before), *center);
            }
            self.pulls_k[k as usize].add(simd, exponent_grad, &group.w);
        }

        let two_over_tau = splat(self.two_over_tau);
        let grad: [Lanes; D] = std::array::from_fn(
            #[inline(always)]
            |j| (direct[j] - (w[j] * pull_sum - pull_center[j]) * two_over_tau).lanes(),
        );
        match &mut self.target {
            Target::InPlace(place) if R::MAKES_OUTPUTS => group.store(&grad, place),
            Target::InPlace(total) | Target::Accumulate { total, .. } => group.store_sum(&grad, total),
        }
    }
}
