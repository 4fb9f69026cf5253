//! Weights and comparisons that several test programs share.
#![allow(dead_code, reason = "each test program uses a part")]

use edkm_cluster::{Centroids, HalfKind, MatrixShape, Prepared, Spec, Trajectory};
use edkm_testkit::dkm::{round_bf16, round_f16, DenseDkm};

/// Normally distributed numbers, seeded.
pub(crate) fn normal(len: usize, seed: u64, deviation: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (0..len)
        .map(|_| ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32 * deviation)
        .collect()
}

/// Forward from given centroids: the trajectory and the clustered weights.
pub(crate) fn forward(weights: &[f32], shape: MatrixShape, spec: &Spec, start: &Centroids) -> (Trajectory, Vec<f32>) {
    let trajectory = Prepared::new(weights, shape, spec).unwrap().iterate(start).unwrap();
    let mut clustered = vec![0.0; weights.len()];
    trajectory.clustered_into(weights, shape, spec, &mut clustered).unwrap();
    (trajectory, clustered)
}

/// What the dense float64 definition gives for every palette of a matrix.
pub(crate) struct Dense {
    /// By palette and step.
    pub(crate) trajectory: Vec<Vec<Vec<f64>>>,
    pub(crate) clustered: Vec<f64>,
    pub(crate) gradient: Vec<f64>,
}

/// Runs the definition at each palette's own temperature.
pub(crate) fn dense(
    weights: &[f32],
    shape: MatrixShape,
    spec: &Spec,
    trajectory: &Trajectory,
    upstream: &[f32],
) -> Dense {
    let rounded = match spec.half {
        HalfKind::Bf16 => round_bf16(weights),
        HalfKind::F16 => round_f16(weights),
    };
    let mut all = Dense {
        trajectory: Vec::new(),
        clustered: Vec::new(),
        gradient: Vec::new(),
    };
    for (palette, tau) in trajectory.taus().enumerate() {
        let range = spec.grouping.weights_of(shape, palette);
        let dkm = DenseDkm {
            tau,
            iterations: spec.iterations,
            dim: spec.dim(),
            clusters: spec.clusters(),
        };
        let start: Vec<f64> = trajectory.start().group(palette).iter().map(|&c| c.into()).collect();
        let forward = dkm.forward(&rounded[range.clone()], &start);
        let upstream: Vec<f64> = upstream[range.clone()].iter().map(|&g| g.into()).collect();
        all.gradient.extend(dkm.backward(&rounded[range], &forward, &upstream));
        all.clustered.extend(forward.clustered_nd);
        all.trajectory.push(forward.trajectory_kd);
    }
    all
}
