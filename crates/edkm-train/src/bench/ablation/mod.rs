//! The ablation of eDKM (arXiv 2309.00964, section 3): what marshaling, uniquification and sharding take off plain DKM, and what is left
//! when the map is never built.
//!
//! Plain DKM is the [`dense`] composition with every save copied, as a framework does that offloads saved tensors to the CPU one by one.
//! The other rows run the same ops over other stores; the last is the project's own form ([`edkm_cluster`]).

pub mod dense;
mod stores;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use edkm_cluster::{bench::normal, Bits, Centroids, ClusterError, HalfKind, MatrixShape, Prepared, Spec, Temperature};
use edkm_store::{in_process_learners, StoreError, DEFAULT_PATIENCE};
use rayon::prelude::*;
use serde::Serialize;

use crate::memory::{available_bytes, peak_resident_bytes, reset_peak_resident};
use crate::TrainError;
use dense::{Dense, Weights};
use stores::Layers;

/// Temperature, relative to the palette's own gap: in the middle of a run.
const RELATIVE_TEMPERATURE: f64 = 0.1;

/// What is clustered, and among how many.
#[derive(Debug, Clone, Copy)]
pub struct AblationSettings {
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
    /// Bits of an index.
    pub bits: Bits,
    /// Repetitions of k-means.
    pub iterations: usize,
    /// Learners that hold the same matrix.
    pub learners: usize,
}

/// One way to keep what backward needs.
#[derive(Debug, Clone, Serialize)]
pub struct AblationRow {
    /// "plain DKM", "M", "M+S", "M+U", "M+U+S" or "fused".
    pub name: &'static str,
    /// The most that one learner kept for backward, in bytes, as its store counted.
    pub bytes_per_learner: u64,
    /// That of all learners together.
    pub bytes_in_all: u64,
    /// Bytes a learner of the first row over those of this one.
    pub ratio: f64,
    /// Seconds of forward and backward, for all learners that were run.
    pub seconds: f64,
    /// Learners that were run: one where all hold the same and none needs the others, else all of them, taking turns at computing.
    pub learners_run: usize,
    /// The largest resident memory of the process during the row, in bytes, where the system tells.
    pub peak_rss_bytes: Option<u64>,
    /// The gradient against that of the first row.
    pub gradient: GradientCheck,
}

/// How a gradient compares with the first row's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GradientCheck {
    /// Every bit is the same.
    pub bitwise_equal: bool,
    /// The largest difference over the largest value of the first row's; NaN if there is one in either.
    pub largest_error: f64,
}

/// Runs every row; `progress` hears of each as it is done.
///
/// Memory: the first row keeps 4 x rows x cols x ((3 x iterations + 1) x 2^bits + 3 x iterations) bytes, and computes with three maps
/// beside that.
///
/// # Errors
/// Settings that cannot be used, less memory than the rows need, a store that fails.
pub fn run(
    settings: &AblationSettings,
    mut progress: impl FnMut(&AblationRow),
) -> Result<Vec<AblationRow>, TrainError> {
    check(settings)?;
    let problem = Problem::new(settings)?;
    let mut rows: Vec<AblationRow> = Vec::new();
    let mut first = Vec::new();
    for layers in Layers::ALL {
        reset_peak_resident();
        let learners = if layers.shard() { settings.learners } else { 1 };
        let start = Instant::now();
        let outcomes = problem.dense_row(layers, learners)?;
        let seconds = start.elapsed().as_secs_f64();
        let gradients = outcomes.iter().map(|outcome| &outcome.gradient);
        let reference = if first.is_empty() {
            &outcomes[0].gradient
        } else {
            &first
        };
        let gradient = gradients.fold(GradientCheck::SAME, |worst, g| worst.or(compare(g, reference)));
        let per_learner = outcomes.iter().map(|outcome| outcome.kept_bytes).max().unwrap_or(0);
        let kept: u64 = outcomes.iter().map(|outcome| outcome.kept_bytes).sum();
        let row = AblationRow {
            name: layers.name(),
            bytes_per_learner: per_learner,
            bytes_in_all: kept * (settings.learners / learners) as u64,
            ratio: ratio(
                rows.first().map_or(per_learner, |row| row.bytes_per_learner),
                per_learner,
            ),
            seconds,
            learners_run: learners,
            peak_rss_bytes: peak_resident_bytes(),
            gradient,
        };
        if first.is_empty() {
            first = outcomes
                .into_iter()
                .next()
                .map(|outcome| outcome.gradient)
                .unwrap_or_default();
        }
        progress(&row);
        rows.push(row);
    }
    reset_peak_resident();
    let start = Instant::now();
    let outcome = problem.fused_row().map_err(cluster_error)?;
    let seconds = start.elapsed().as_secs_f64();
    let row = AblationRow {
        name: "fused",
        bytes_per_learner: outcome.kept_bytes,
        bytes_in_all: outcome.kept_bytes * settings.learners as u64,
        ratio: ratio(rows[0].bytes_per_learner, outcome.kept_bytes),
        seconds,
        learners_run: 1,
        peak_rss_bytes: peak_resident_bytes(),
        gradient: compare(&outcome.gradient, &first),
    };
    progress(&row);
    rows.push(row);
    Ok(rows)
}

/// Bytes that the hungriest row needs.
fn needed_bytes(settings: &AblationSettings) -> Option<u64> {
    let weights = (settings.rows as u64).checked_mul(settings.cols as u64)?;
    let (maps, vectors) = (3 * settings.iterations as u64 + 1, 3 * settings.iterations as u64);
    let clusters = settings.bits.clusters() as u64;
    let plain = (maps + 3).checked_mul(clusters)?.checked_add(vectors + 8)?;
    // in the sharded rows every learner holds a map that it has gathered, and its gradient
    let sharded = (3 * settings.learners as u64).checked_mul(clusters)?.checked_add(8)?;
    plain.max(sharded).checked_mul(4)?.checked_mul(weights)
}

fn check(settings: &AblationSettings) -> Result<(), TrainError> {
    let refused = |setting, value: String, expected| TrainError::Setting {
        setting,
        value,
        expected,
    };
    if !(1..=64).contains(&settings.learners) {
        return Err(refused(
            "learners",
            settings.learners.to_string(),
            "a number from 1 to 64",
        ));
    }
    if !(1..=64).contains(&settings.iterations) {
        return Err(refused(
            "iterations",
            settings.iterations.to_string(),
            "a number from 1 to 64",
        ));
    }
    let available = available_bytes();
    match (needed_bytes(settings), available) {
        (Some(needed), Some(available)) if needed > available => Err(TrainError::Memory {
            what: "the ablation",
            needed,
            available,
        }),
        (None, _) => Err(refused(
            "rows x cols",
            format!("{} x {}", settings.rows, settings.cols),
            "a matrix that fits in memory",
        )),
        _ => Ok(()),
    }
}

fn ratio(first: u64, this: u64) -> f64 {
    first as f64 / this.max(1) as f64
}

/// A matrix to cluster, a gradient to take back, and the centroids that everyone starts from.
struct Problem {
    weights: Weights,
    upstream: Vec<f32>,
    shape: MatrixShape,
    spec: Spec,
    start: Centroids,
    dense: Dense,
}

struct Outcome {
    gradient: Vec<f32>,
    kept_bytes: u64,
}

impl Problem {
    fn new(settings: &AblationSettings) -> Result<Self, TrainError> {
        let shape = MatrixShape::new(settings.rows, settings.cols);
        let mut values = normal(shape.len(), 1, 0.02);
        values
            .par_iter_mut()
            .for_each(|w| *w = half::bf16::from_f32(*w).to_f32());
        let keys = values.par_iter().map(|&w| half::bf16::from_f32(w).to_bits()).collect();
        let spec = Spec::new(settings.bits)
            .with_half(HalfKind::Bf16)
            .with_iterations(settings.iterations);
        let prepared = Prepared::new(&values, shape, &spec).map_err(cluster_error)?;
        let start = prepared.initial().map_err(cluster_error)?;
        let palette = start.as_slice();
        let low = palette.iter().copied().fold(f32::INFINITY, f32::min);
        let high = palette.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let gap = f64::from(high - low) / (palette.len() - 1) as f64;
        let tau = RELATIVE_TEMPERATURE * gap * gap;
        Ok(Self {
            weights: Weights {
                values: Arc::new(values),
                keys: Arc::new(keys),
            },
            upstream: normal(shape.len(), 2, 1.0),
            shape,
            spec: spec.with_temperature(Temperature::Absolute(tau)),
            start,
            dense: Dense {
                tau,
                iterations: settings.iterations,
                clusters: settings.bits.clusters(),
            },
        })
    }

    /// Every learner's forward and backward pass over a store of its own.
    ///
    /// Learners take turns at computing, so that their maps are not all alive at once; what they keep, they keep at the same time. Each has threads of its own: those of the caller,
    /// who waits here, may be but one.
    fn dense_row(&self, layers: Layers, learners: usize) -> Result<Vec<Outcome>, StoreError> {
        let turns = Mutex::new(());
        let learn = |learner| {
            let store = layers.store(learner)?;
            let start: Vec<f64> = self.start.as_slice().iter().map(|&c| c.into()).collect();
            let saved = {
                let _turn = turns.lock().unwrap_or_else(PoisonError::into_inner);
                self.dense.forward(&self.weights, &start, &*store)?.1
            };
            let gradient = self.dense.backward(saved, &self.upstream, &|op| {
                let _turn = turns.lock().unwrap_or_else(PoisonError::into_inner);
                op();
            })?;
            Ok(Outcome {
                gradient,
                kept_bytes: store.report().peak_bytes,
            })
        };
        let computing = rayon::current_num_threads();
        std::thread::scope(|scope| {
            let threads: Vec<_> = in_process_learners(learners, DEFAULT_PATIENCE)
                .into_iter()
                .map(|learner| {
                    scope.spawn(|| {
                        let pool = rayon::ThreadPoolBuilder::new().num_threads(computing).build();
                        let pool = pool.map_err(|why| StoreError::Backend {
                            reason: format!("no threads for a learner: {why}"),
                        })?;
                        pool.install(|| learn(learner))
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }

    fn fused_row(&self) -> Result<Outcome, ClusterError> {
        let weights = &self.weights.values;
        let trajectory = Prepared::new(weights, self.shape, &self.spec)?.iterate(&self.start)?;
        let mut clustered = vec![0.0; weights.len()];
        trajectory.clustered_into(weights, self.shape, &self.spec, &mut clustered)?;
        drop(clustered);
        let mut gradient = self.upstream.clone();
        trajectory.backward(weights, self.shape, &self.spec, &mut gradient)?;
        Ok(Outcome {
            gradient,
            kept_bytes: trajectory.saved_bytes() as u64,
        })
    }
}

impl GradientCheck {
    const SAME: Self = Self {
        bitwise_equal: true,
        largest_error: 0.0,
    };

    /// The worse of both.
    fn or(self, other: Self) -> Self {
        Self {
            bitwise_equal: self.bitwise_equal && other.bitwise_equal,
            largest_error: worse(self.largest_error, other.largest_error),
        }
    }
}

/// The larger number; NaN if either is.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b {
        a
    } else {
        b
    }
}

fn compare(gradient: &[f32], first: &[f32]) -> GradientCheck {
    let largest = first.par_iter().map(|g| f64::from(g.abs())).reduce(|| 0.0, worse);
    let pairs = || gradient.par_iter().zip(first);
    let error = pairs()
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
        .reduce(|| 0.0, worse);
    GradientCheck {
        bitwise_equal: gradient.len() == first.len() && pairs().all(|(a, b)| a.to_bits() == b.to_bits()),
        largest_error: if error == 0.0 { 0.0 } else { error / largest },
    }
}

fn cluster_error(source: ClusterError) -> TrainError {
    TrainError::Clustering { source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_the_gradient_of_plain_dkm_in_fewer_bytes() {
        let settings = AblationSettings {
            rows: 128,
            cols: 64,
            bits: Bits::new(3).unwrap(),
            iterations: 3,
            learners: 4,
        };
        let mut heard = 0;
        let rows = run(&settings, |_| heard += 1).unwrap();
        assert_eq!(rows.len(), heard);
        let names: Vec<_> = rows.iter().map(|row| row.name).collect();
        assert_eq!(names, ["plain DKM", "M", "M+S", "M+U", "M+U+S", "fused"]);
        let (dense, fused) = rows.split_at(5);
        for row in dense {
            assert_eq!(row.gradient, GradientCheck::SAME, "{}", row.name);
        }
        // f32 maps against f64 tables
        assert!(fused[0].gradient.largest_error <= 2e-5, "{:?}", fused[0].gradient);
        assert!(
            fused[0].gradient.largest_error > 0.0,
            "the gradient was compared with itself"
        );

        // 10 maps and 9 vectors, and 10 palettes of f64; what marshaling leaves of them is 3 maps and 2 vectors
        let numbers = |maps: u64, vectors: u64| (maps * 8 + vectors) * 128 * 64 * 4;
        let [plain, m, ms, mu, mus] = [0, 1, 2, 3, 4].map(|i| dense[i].bytes_per_learner);
        assert_eq!(plain, numbers(10, 9) + 10 * 64);
        let palettes = m - numbers(3, 2);
        assert!(palettes <= 10 * 64, "{palettes} bytes of palettes");
        assert!(ms <= m / 4 + 64, "{ms} of {m}");
        assert!(mu < m / 2 && mus <= mu / 4 + 64, "{mu}, {mus} of {m}");
        assert_eq!(dense[2].learners_run, 4);
        assert_eq!(dense[0].bytes_in_all, 4 * plain);
    }

    #[test]
    fn what_does_not_fit_is_refused_before_any_work() {
        let settings = AblationSettings {
            rows: 1 << 20,
            cols: 1 << 20,
            bits: Bits::new(8).unwrap(),
            iterations: 3,
            learners: 8,
        };
        // where the system tells what there is
        if available_bytes().is_some() {
            let error = run(&settings, |_| ()).unwrap_err().to_string();
            assert!(error.contains("the ablation") && error.contains("GiB"), "{error}");
        }
        let error = run(
            &AblationSettings {
                learners: 0,
                ..settings
            },
            |_| (),
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("learners"), "{error}");
    }

    #[test]
    fn a_nan_is_never_equal_nor_small() {
        let check = compare(&[f32::NAN, 1.0], &[1.0, 1.0]);
        assert!(!check.bitwise_equal && check.largest_error.is_nan());
    }
}
