//! Plain DKM (arXiv 2108.12659, section 3): five dense ops, each of which saves through a store what its derivative needs.
//!
//! Axes: N weights, K clusters. Maps and weights are f32, centroids and sums f64. This is what the fused form stands against: the
//! attention map of N x K is built in every repetition and saved by each op that needs it, as an autodiff framework would. No op
//! knows of another.
//!
//! | op | computes | saves |
//! |---|---|---|
//! | squared distance | D = (w - c)^2 | w, c |
//! | softmax | A = softmax(-D / tau) | A |
//! | weighted sum | num = A^T w | A, w |
//! | mass | S = A^T 1 | A, 1 |
//! | quotient | c' = num / S | num, S |
//! | mix, once at the end | w~ = A c' | A, c' |
//!
//! The mass is a product with a vector of ones, and saves both operands as dfdx's matrix product does. A sum along an axis would save
//! nothing: plain DKM then keeps 2 maps a repetition in place of 3, and marshaling, which leaves one of them, takes off 2.5 times in place
//! of 3.4 (three repetitions, 8 clusters).
#![allow(non_snake_case)]

use std::sync::Arc;

use edkm_store::{Backend, DType, Placement, Record, SharedBytes, StoreError, Ticket};
use rayon::prelude::*;

/// Rows of a map that one task works on: the same for every number of threads, so that sums are.
const PART: usize = 1 << 14;

/// The definition's parameters.
#[derive(Debug, Clone, Copy)]
pub struct Dense {
    /// Temperature of the softmax over squared distances.
    pub tau: f64,
    /// Repetitions of assignment and update.
    pub iterations: usize,
    /// Number of clusters.
    pub clusters: usize,
}

/// The weights of a matrix, as all learners hold them.
#[derive(Debug, Clone)]
pub struct Weights {
    /// `[N]`, each a 16-bit value.
    pub values: Arc<Vec<f32>>,
    /// The bits of each weight, `[N]`: rows of a map with equal keys are equal.
    pub keys: Arc<Vec<u16>>,
}

/// What backward needs: tickets, no tensor.
pub struct Saved {
    repetitions: Vec<Repetition>,
    mix: [Ticket; 2],
}

struct Repetition {
    distance: [Ticket; 2],
    softmax: Ticket,
    weighted_sum: [Ticket; 2],
    mass: [Ticket; 2],
    quotient: [Ticket; 2],
}

impl Dense {
    /// w~ `[N]` from the centroids `start_K`; what backward needs goes to `store`.
    ///
    /// # Errors
    /// Those of the store.
    pub fn forward(
        &self,
        weights: &Weights,
        start_K: &[f64],
        store: &dyn Backend,
    ) -> Result<(Vec<f32>, Saved), StoreError> {
        let keep = Keep { weights, store };
        let w_N = &weights.values;
        let ones_N = Arc::new(vec![1.0; w_N.len()]);
        let mut c_K = Arc::new(start_K.to_vec());
        let mut repetitions = Vec::with_capacity(self.iterations);
        let mut last_NK = Arc::new(Vec::new());
        for _ in 0..self.iterations {
            // dropped before the next map is built
            drop(std::mem::take(&mut last_NK));
            let D_NK = squared_distance(w_N, &c_K);
            let distance = [keep.rows(w_N, "distance.w")?, keep.small(&c_K, "distance.c")?];
            let A_NK = Arc::new(softmax(D_NK, self.tau, self.clusters));
            let softmax = keep.rows(&A_NK, "softmax.a")?;
            let num_K = Arc::new(column_sums(&A_NK, self.clusters, |i| w_N[i]));
            let weighted_sum = [keep.rows(&A_NK, "weighted_sum.a")?, keep.rows(w_N, "weighted_sum.w")?];
            let S_K = Arc::new(column_sums(&A_NK, self.clusters, |i| ones_N[i]));
            let mass = [keep.rows(&A_NK, "mass.a")?, keep.rows(&ones_N, "mass.ones")?];
            c_K = Arc::new(num_K.iter().zip(S_K.iter()).map(|(num, S)| num / S).collect());
            let quotient = [keep.small(&num_K, "quotient.num")?, keep.small(&S_K, "quotient.mass")?];
            repetitions.push(Repetition {
                distance,
                softmax,
                weighted_sum,
                mass,
                quotient,
            });
            last_NK = A_NK;
        }
        let clustered_N = mix(&last_NK, &c_K);
        let mix = [keep.rows(&last_NK, "mix.a")?, keep.small(&c_K, "mix.c")?];
        Ok((clustered_N, Saved { repetitions, mix }))
    }

    /// dL/dw `[N]` from g = dL/dw~ `[N]`. The centroids that the first repetition started from are constants.
    ///
    /// # Errors
    /// Those of the store.
    pub fn backward(
        &self,
        saved: Saved,
        g_N: &[f32],
        turn: &impl Fn(&mut dyn FnMut()),
    ) -> Result<Vec<f32>, StoreError> {
        let K = self.clusters;
        let mut dw_N = vec![0.0f32; g_N.len()];
        let [A, c] = saved.mix;
        let (A_NK, c_K) = (Rows::load(A)?, small(c)?);
        let mut dc_K = Vec::new();
        let mut dA_NK = Vec::new();
        turn(&mut || {
            dc_K = column_sums(A_NK.get(), K, |i| g_N[i]);
            dA_NK = outer(g_N, &c_K);
        });
        drop(A_NK);
        for (index, repetition) in saved.repetitions.into_iter().enumerate().rev() {
            let [num, S] = repetition.quotient;
            let (num_K, S_K) = (small(num)?, small(S)?);
            let dnum_K: Vec<f64> = dc_K.iter().zip(&S_K).map(|(dc, S)| dc / S).collect();
            let dS_K: Vec<f64> = (0..K).map(|k| -dc_K[k] * num_K[k] / (S_K[k] * S_K[k])).collect();
            let [A, ones] = repetition.mass;
            let (A_NK, ones_N) = (Rows::load(A)?, Rows::load(ones)?);
            turn(&mut || {
                if dA_NK.is_empty() {
                    dA_NK = vec![0.0; g_N.len() * K];
                }
                // a product knows not that its second operand is constant, whose derivative goes nowhere
                add_product(&mut dA_NK, &mut vec![0.0; g_N.len()], A_NK.get(), ones_N.get(), &dS_K);
            });
            drop((A_NK, ones_N));
            let [A, w] = repetition.weighted_sum;
            let (A_NK, w_N) = (Rows::load(A)?, Rows::load(w)?);
            turn(&mut || add_product(&mut dA_NK, &mut dw_N, A_NK.get(), w_N.get(), &dnum_K));
            drop((A_NK, w_N));
            let A_NK = Rows::load(repetition.softmax)?;
            turn(&mut || softmax_backward(&mut dA_NK, A_NK.get(), self.tau, K));
            drop(A_NK);
            let [w, c] = repetition.distance;
            let (w_N, c_K) = (Rows::load(w)?, small(c)?);
            turn(&mut || {
                dc_K = distance_backward(&dA_NK, &mut dw_N, w_N.get(), &c_K);
                // the map before is another one, and nothing is before the first
                dA_NK = Vec::new();
            });
            if index == 0 {
                break;
            }
        }
        Ok(dw_N)
    }
}

/// Saves for the ops.
struct Keep<'a> {
    weights: &'a Weights,
    store: &'a dyn Backend,
}

impl Keep<'_> {
    /// A tensor with a row for each weight, which follows from the weight's 16 bits.
    fn rows(&self, values: &Arc<Vec<f32>>, label: &'static str) -> Result<Ticket, StoreError> {
        let rows = self.weights.keys.len();
        let shape = [rows, values.len().checked_div(rows).unwrap_or(0)];
        let record = Record::new(values.clone(), DType::F32, shape, label).with_placement(Placement::Replicated);
        self.store.save(record.with_keys(self.weights.keys.clone()))
    }

    /// Centroids and sums.
    fn small(&self, values_K: &Arc<Vec<f64>>, label: &'static str) -> Result<Ticket, StoreError> {
        let record = Record::new(values_K.clone(), DType::F64, [values_K.len()], label);
        self.store.save(record.with_placement(Placement::Replicated))
    }
}

/// f32 that a store gave back.
struct Rows(Arc<dyn SharedBytes>);

impl Rows {
    fn load(ticket: Ticket) -> Result<Self, StoreError> {
        Ok(Self(ticket.load()?))
    }

    fn get(&self) -> &[f32] {
        bytemuck::cast_slice(self.0.as_bytes())
    }
}

fn small(ticket: Ticket) -> Result<Vec<f64>, StoreError> {
    Ok(bytemuck::pod_collect_to_vec(ticket.load()?.as_bytes()))
}

fn squared_distance(w_N: &[f32], c_K: &[f64]) -> Vec<f32> {
    let c_K: Vec<f32> = c_K.iter().map(|&c| c as f32).collect();
    let mut D_NK = vec![0.0; w_N.len() * c_K.len()];
    rows_mut(&mut D_NK, c_K.len(), |i, D_K| {
        for (D, c) in D_K.iter_mut().zip(&c_K) {
            *D = (w_N[i] - c) * (w_N[i] - c);
        }
    });
    D_NK
}

fn softmax(mut D_NK: Vec<f32>, tau: f64, K: usize) -> Vec<f32> {
    let scale = (1.0 / tau) as f32;
    rows_mut(&mut D_NK, K, |_, row_K| {
        let nearest = row_K.iter().copied().fold(f32::INFINITY, f32::min);
        let mut sum = 0.0;
        for a in row_K.iter_mut() {
            *a = ((nearest - *a) * scale).exp();
            sum += *a;
        }
        let inverse = 1.0 / sum;
        row_K.iter_mut().for_each(|a| *a *= inverse);
    });
    D_NK
}

/// sum_i A_ik f(i), in f64, added up part by part.
fn column_sums(A_NK: &[f32], K: usize, f: impl Fn(usize) -> f32 + Sync) -> Vec<f64> {
    let parts: Vec<Vec<f64>> = A_NK
        .par_chunks(PART * K)
        .enumerate()
        .map(|(part, A_NK)| {
            let mut sums_K = vec![0.0; K];
            for (i, A_K) in A_NK.chunks_exact(K).enumerate() {
                let factor = f64::from(f(part * PART + i));
                for (sum, &a) in sums_K.iter_mut().zip(A_K) {
                    *sum += f64::from(a) * factor;
                }
            }
            sums_K
        })
        .collect();
    add_up(parts, K)
}

fn add_up(parts: Vec<Vec<f64>>, K: usize) -> Vec<f64> {
    parts.into_iter().fold(vec![0.0; K], |mut sums_K, part_K| {
        sums_K.iter_mut().zip(part_K).for_each(|(sum, part)| *sum += part);
        sums_K
    })
}

fn mix(A_NK: &[f32], c_K: &[f64]) -> Vec<f32> {
    let c_K: Vec<f32> = c_K.iter().map(|&c| c as f32).collect();
    let mut w_N = vec![0.0; A_NK.len() / c_K.len().max(1)];
    rows_mut(&mut w_N, 1, |i, w| {
        let A_K = &A_NK[i * c_K.len()..][..c_K.len()];
        w[0] = A_K.iter().zip(&c_K).map(|(a, c)| a * c).sum();
    });
    w_N
}

/// g_i c_k
fn outer(g_N: &[f32], c_K: &[f64]) -> Vec<f32> {
    let c_K: Vec<f32> = c_K.iter().map(|&c| c as f32).collect();
    let mut dA_NK = vec![0.0; g_N.len() * c_K.len()];
    rows_mut(&mut dA_NK, c_K.len(), |i, dA_K| {
        dA_K.iter_mut().zip(&c_K).for_each(|(dA, c)| *dA = g_N[i] * c);
    });
    dA_NK
}

/// Of A^T w, which is the weighted sum and, for ones, the mass: dA += w dnum; dw += A dnum
fn add_product(dA_NK: &mut [f32], dw_N: &mut [f32], A_NK: &[f32], w_N: &[f32], dnum_K: &[f64]) {
    let K = dnum_K.len();
    let dnum_K: Vec<f32> = dnum_K.iter().map(|&d| d as f32).collect();
    rows_mut(dA_NK, K, |i, dA_K| {
        dA_K.iter_mut().zip(&dnum_K).for_each(|(dA, dnum)| *dA += w_N[i] * dnum);
    });
    rows_mut(dw_N, 1, |i, dw| {
        let A_K = &A_NK[i * K..][..K];
        dw[0] += A_K.iter().zip(&dnum_K).map(|(a, dnum)| a * dnum).sum::<f32>();
    });
}

/// dA becomes dD = -A (dA - sum_k A dA) / tau.
fn softmax_backward(dA_NK: &mut [f32], A_NK: &[f32], tau: f64, K: usize) {
    let scale = (-1.0 / tau) as f32;
    rows_mut(dA_NK, K, |i, dA_K| {
        let A_K = &A_NK[i * K..][..K];
        let mean: f32 = dA_K.iter().zip(A_K).map(|(dA, a)| dA * a).sum();
        dA_K.iter_mut()
            .zip(A_K)
            .for_each(|(dA, a)| *dA = a * (*dA - mean) * scale);
    });
}

/// dw += sum_k 2 (w - c) dD; returns dc = -sum_i 2 (w - c) dD.
fn distance_backward(dD_NK: &[f32], dw_N: &mut [f32], w_N: &[f32], c_K: &[f64]) -> Vec<f64> {
    let K = c_K.len();
    let narrow_K: Vec<f32> = c_K.iter().map(|&c| c as f32).collect();
    let parts: Vec<Vec<f64>> = dw_N
        .par_chunks_mut(PART)
        .zip(dD_NK.par_chunks(PART * K).zip(w_N.par_chunks(PART)))
        .map(|(dw_N, (dD_NK, w_N))| {
            let mut dc_K = vec![0.0; K];
            for ((dw, &w), dD_K) in dw_N.iter_mut().zip(w_N).zip(dD_NK.chunks_exact(K)) {
                let mut sum = 0.0;
                for ((dc, dD), c) in dc_K.iter_mut().zip(dD_K).zip(&narrow_K) {
                    let term = 2.0 * (w - c) * dD;
                    sum += term;
                    *dc -= f64::from(term);
                }
                *dw += sum;
            }
            dc_K
        })
        .collect();
    add_up(parts, K)
}

/// Runs `f(row index, row)` over rows of `width` numbers.
fn rows_mut(values: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    values
        .par_chunks_mut(PART * width)
        .enumerate()
        .for_each(|(part, values)| {
            for (i, row) in values.chunks_exact_mut(width).enumerate() {
                f(part * PART + i, row);
            }
        });
}

#[cfg(test)]
mod tests {
    use edkm_store::Store;
    use edkm_testkit::dkm::DenseDkm;

    use super::*;

    #[test]
    fn the_ops_together_are_the_definition() {
        let values: Vec<f32> = (0..500)
            .map(|i| half::bf16::from_f32((i as f32 * 0.7).sin() * 0.1).to_f32())
            .collect();
        let g_N: Vec<f32> = (0..500).map(|i| (i as f32 * 1.3).cos()).collect();
        let start_K = [-0.09, -0.03, 0.02, 0.08];
        let weights = Weights {
            keys: Arc::new(values.iter().map(|&w| half::bf16::from_f32(w).to_bits()).collect()),
            values: Arc::new(values.clone()),
        };
        let dense = Dense {
            tau: 4e-4,
            iterations: 3,
            clusters: 4,
        };
        let store = Store::memory();
        let (clustered_N, saved) = dense.forward(&weights, &start_K, &store).unwrap();
        let grad_N = dense.backward(saved, &g_N, &|op| op()).unwrap();
        assert_eq!(store.report().held_bytes, 0);

        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let oracle = DenseDkm {
            tau: dense.tau,
            iterations: 3,
            dim: 1,
            clusters: 4,
        };
        let forward = oracle.forward(&wide(&values), &start_K);
        let expected_N = oracle.backward(&wide(&values), &forward, &wide(&g_N));
        // f32 maps: 24 bits, a handful of roundings, softmax exponents up to 100
        for (got, expected) in [(clustered_N, forward.clustered_nd), (grad_N, expected_N)] {
            let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            for (got, expected) in got.iter().zip(expected) {
                let error = (f64::from(*got) - expected).abs() / largest;
                assert!(error <= 2e-5, "{got} where {expected} was expected");
            }
        }
    }
}
