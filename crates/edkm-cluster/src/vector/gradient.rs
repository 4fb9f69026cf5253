//! The backward pass over vectors.
//!
//! As for scalars ([`crate::scalar::gradient`]), but every vector has its own gradient: with q_ik = (w_i - c_k) . dc_k / S_k, and in the last
//! repetition g_i . c_k besides, dL/dx_ik = A_ik (q_ik - sum_j A_ij q_ij); x_ik = -|w_i - c'_k|^2 / tau leads to w_i and to c'.

use crate::lanes::{exp2, Arithmetic, Lanes};
use crate::parallel::sum_in_order;
use crate::target::Target;
use crate::vector::attention::{sweep, Attention, Pass, Rows};
use crate::vector::starved;
use crate::vector::tile::Group;
use crate::vector::Palette;

/// One repetition of the forward pass.
pub(crate) struct Repetition<const D: usize> {
    pub(crate) before_kd: Vec<[f64; D]>,
    pub(crate) after_kd: Vec<[f64; D]>,
    pub(crate) log_mass_k: Vec<f64>,
}

/// Differentiates all repetitions of a palette (not empty), and writes the gradient of the weights.
pub(crate) fn unrolled<const D: usize>(
    palette: &Palette<'_, D>,
    repetitions: &[Repetition<D>],
    tau: f64,
    pinned: Option<usize>,
    mut target: Target<'_>,
) {
    let Some(last) = repetitions.last() else {
        return;
    };
    let mut after_grad_kd = outputs(palette, last, tau, target.upstream());
    for (i, repetition) in repetitions.iter().enumerate().rev() {
        let role = if i + 1 == repetitions.len() {
            Role::Last
        } else {
            Role::Earlier
        };
        after_grad_kd = backward(
            palette,
            repetition,
            &after_grad_kd,
            tau,
            pinned,
            role,
            target.reborrow(),
        );
    }
}

/// The gradient for the centroids of the clustered vectors, dc_k = sum_i A_ik g_i.
fn outputs<const D: usize>(
    palette: &Palette<'_, D>,
    last: &Repetition<D>,
    tau: f64,
    upstream: &[f32],
) -> Vec<[f64; D]> {
    let attention = Attention::new(&last.before_kd, tau);
    let grad = sum_in_order(palette.map_tiles(&last.before_kd, |weights, tile| {
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
    fn group<A: Arithmetic>(&mut self, group: &Group<'_, D>, rows: Rows<'_>) {
        let scale = rows.sum.recip() * group.counts;
        let g = group.load(self.upstream);
        for (&k, weight) in rows.clusters.iter().zip(rows.weights) {
            let a = *weight * scale;
            let grad = &mut self.grad_kd[k];
            for j in 0..D {
                grad[j] = A::mul_add(a, g[j], grad[j]);
            }
        }
    }
}

/// Which repetition is differentiated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The one that made the clustered vectors: the upstream gradient comes in, and is replaced.
    Last,
    /// One before.
    Earlier,
}

/// A cluster in a backward repetition.
struct Cluster<const D: usize> {
    before: [f64; D],
    after: [f64; D],
    /// dc_k / S_k; zero for the pinned and the starved.
    sum_grad: [f64; D],
}

/// A starved cluster in a backward repetition.
struct Starved<const D: usize> {
    k: usize,
    grad: [f64; D],
    log_mass: f64,
}

/// Takes dL/dc of the centroids that a repetition produced back to those that it started from, and adds to the gradient of the weights.
fn backward<const D: usize>(
    palette: &Palette<'_, D>,
    repetition: &Repetition<D>,
    after_grad_kd: &[[f64; D]],
    tau: f64,
    pinned: Option<usize>,
    role: Role,
    target: Target<'_>,
) -> Vec<[f64; D]> {
    let attention = Attention::new(&repetition.before_kd, tau);
    let number = palette.number();
    let mut starved = Vec::new();
    let mut clusters = Vec::new();
    for (k, (&before, &after)) in repetition.before_kd.iter().zip(&repetition.after_kd).enumerate() {
        let (grad, log_mass) = (after_grad_kd[k], repetition.log_mass_k[k]);
        let mut sum_grad = [0.0; D];
        if pinned == Some(k) {
        } else if !starved::is_starved(log_mass, number) {
            sum_grad = grad.map(|g| g * (-log_mass).exp2());
        } else if grad != [0.0; D] {
            starved.push(Starved { k, grad, log_mass });
        }
        clusters.push(Cluster {
            before,
            after,
            sum_grad,
        });
    }
    let grad = sum_in_order(palette.map_tiles_to(&repetition.before_kd, target, |target, tile| {
        let mut pass = Backward {
            attention: &attention,
            clusters: &clusters,
            starved: &starved,
            two_over_tau: Lanes::splat(2.0 / tau),
            role,
            target,
            before_grad_kd: vec![[Lanes::ZERO; D]; clusters.len()],
        };
        sweep(&attention, tile, &mut pass);
        pass.before_grad_kd.iter().flatten().map(|lanes| lanes.sum()).collect()
    }));
    in_vectors(&grad)
}

struct Backward<'a, 'g, const D: usize> {
    attention: &'a Attention<D>,
    clusters: &'a [Cluster<D>],
    starved: &'a [Starved<D>],
    two_over_tau: Lanes,
    role: Role,
    target: Target<'g>,
    before_grad_kd: Vec<[Lanes; D]>,
}

impl<const D: usize> Pass<D> for Backward<'_, '_, D> {
    #[inline(always)]
    fn group<A: Arithmetic>(&mut self, group: &Group<'_, D>, rows: Rows<'_>) {
        let w = &group.w;
        let g = match self.role {
            Role::Last => group.load(self.target.upstream()),
            Role::Earlier => [Lanes::ZERO; D],
        };
        // What a weight of the group receives, without the zeros that are kept.
        let mut direct = [Lanes::ZERO; D];
        let mut through_distance = [Lanes::ZERO; D];
        let mut mean = Lanes::ZERO;

        if !self.starved.is_empty() {
            let log_sum = starved::log_sum(&rows);
            for starved in self.starved {
                let cluster = &self.clusters[starved.k];
                let distance = self.attention.distance::<A>(w, starved.k);
                let share = exp2::<A>(Lanes::ZERO - distance - log_sum - Lanes::splat(starved.log_mass)) * group.counts;
                let mut through_attention = Lanes::ZERO;
                for j in 0..D {
                    let grad = share * Lanes::splat(starved.grad[j]);
                    direct[j] += grad;
                    through_attention = A::mul_add(grad, w[j] - Lanes::splat(cluster.after[j]), through_attention);
                }
                mean += through_attention;
                for j in 0..D {
                    let pull = through_attention * (w[j] - Lanes::splat(cluster.before[j]));
                    through_distance[j] += pull;
                    self.before_grad_kd[starved.k][j] =
                        A::mul_add(pull, self.two_over_tau, self.before_grad_kd[starved.k][j]);
                }
            }
        }

        let scale = rows.sum.recip() * group.counts;
        for (&k, weight) in rows.clusters.iter().zip(rows.weights.iter_mut()) {
            let cluster = &self.clusters[k];
            *weight = *weight * scale;
            let mut q = Lanes::ZERO;
            for j in 0..D {
                let (after, sum_grad) = (Lanes::splat(cluster.after[j]), Lanes::splat(cluster.sum_grad[j]));
                q = A::mul_add(w[j] - after, sum_grad, q);
                q = A::mul_add(g[j], after, q);
                direct[j] = A::mul_add(*weight, sum_grad, direct[j]);
            }
            mean = A::mul_add(*weight, q, mean);
        }
        for (&k, weight) in rows.clusters.iter().zip(rows.weights.iter()) {
            let cluster = &self.clusters[k];
            let mut q = Lanes::ZERO;
            for j in 0..D {
                let (after, sum_grad) = (Lanes::splat(cluster.after[j]), Lanes::splat(cluster.sum_grad[j]));
                q = A::mul_add(w[j] - after, sum_grad, q);
                q = A::mul_add(g[j], after, q);
            }
            let exponent_grad = *weight * (q - mean);
            let grad = &mut self.before_grad_kd[k];
            for j in 0..D {
                let pull = exponent_grad * (w[j] - Lanes::splat(cluster.before[j]));
                through_distance[j] += pull;
                grad[j] = A::mul_add(pull, self.two_over_tau, grad[j]);
            }
        }

        let two_over_tau = self.two_over_tau;
        for j in 0..D {
            direct[j] = direct[j] - through_distance[j] * two_over_tau;
        }
        for (lane, range) in group.places() {
            match (&mut self.target, self.role) {
                (Target::InPlace(grad), Role::Last) => {
                    for (grad, dw) in grad[range].iter_mut().zip(&direct) {
                        *grad = dw.0[lane] as f32;
                    }
                }
                (Target::InPlace(total), Role::Earlier) | (Target::Accumulate { total, .. }, _) => {
                    for (total, dw) in total[range].iter_mut().zip(&direct) {
                        *total += dw.0[lane] as f32;
                    }
                }
            }
        }
    }
}

fn in_vectors<const D: usize>(flat: &[f64]) -> Vec<[f64; D]> {
    flat.chunks_exact(D).map(|c| std::array::from_fn(|j| c[j])).collect()
}
