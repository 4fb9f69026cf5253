//! Results do not depend on the number of threads, and a step continues from saved centroids exactly.

mod common;

use std::num::NonZeroUsize;

use common::{forward, normal};
use edkm_cluster::{Bits, Centroids, GradientMode, Grouping, MatrixShape, Prepared, Spec, VectorLen};
use edkm_testkit::assert_bitwise_equal;

/// Everything that a step computes.
#[derive(Debug, PartialEq)]
struct Step {
    start: Centroids,
    weighted: Centroids,
    last: Centroids,
    clustered: Vec<f32>,
    grad: Vec<f32>,
    indices: Vec<u8>,
}

fn step(weights: &[f32], shape: MatrixShape, spec: &Spec) -> Step {
    let prepared = Prepared::new(weights, shape, spec).unwrap();
    let start = prepared.initial().unwrap();
    let importance: Vec<f32> = weights.iter().map(|w| w * w).collect();
    let weighted = prepared.initial_weighted(&importance).unwrap();
    let (trajectory, clustered) = forward(weights, shape, spec, &start);
    let mut grad = normal(weights.len(), 3, 1.0);
    trajectory.backward(weights, shape, spec, &mut grad).unwrap();
    let indices = prepared.assign(trajectory.last()).unwrap();
    Step {
        start,
        weighted,
        last: trajectory.last().clone(),
        clustered,
        grad,
        indices,
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let shape = MatrixShape::new(192, 1024);
    let weights = normal(shape.len(), 1, 0.02);
    let groups = |rows| Grouping::PerChannels(NonZeroUsize::new(rows).unwrap());
    let spec = Spec::new(Bits::new(4).unwrap());
    for spec in [
        spec,
        spec.with_grouping(groups(7)),
        spec.with_grouping(groups(100)),
        spec.with_gradient(GradientMode::Implicit),
        spec.with_gradient(GradientMode::StraightThrough),
        spec.with_vector(VectorLen::Two),
        spec.with_vector(VectorLen::Eight).with_grouping(groups(7)),
        spec.with_vector(VectorLen::Four)
            .with_gradient(GradientMode::StraightThrough),
    ] {
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let one = pool(1).install(|| step(&weights, shape, &spec));
        for threads in 2..=4 {
            assert_eq!(
                pool(threads).install(|| step(&weights, shape, &spec)),
                one,
                "{threads} threads"
            );
        }
    }
}

#[test]
fn clustered_weights_come_again() {
    let shape = MatrixShape::new(64, 1024);
    let weights = normal(shape.len(), 1, 0.02);
    let spec = Spec::default();
    let start = Prepared::new(&weights, shape, &spec).unwrap().initial().unwrap();
    let (trajectory, clustered) = forward(&weights, shape, &spec, &start);
    let mut again = vec![0.0; weights.len()];
    trajectory
        .clone()
        .clustered_into(&weights, shape, &spec, &mut again)
        .unwrap();
    assert_bitwise_equal("clustered", &again, &clustered);
}

#[test]
fn saved_centroids_continue_exactly() {
    let shape = MatrixShape::new(16, 64);
    let weights = normal(shape.len(), 1, 0.02);
    let spec = Spec::default();
    let start = Prepared::new(&weights, shape, &spec).unwrap().initial().unwrap();
    let (first, _) = forward(&weights, shape, &spec, &start);
    let bytes: Vec<u8> = first.last().as_slice().iter().flat_map(|c| c.to_le_bytes()).collect();
    let restored = bytes
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let restored = Centroids::from_vec(restored, 8, 1).unwrap();
    assert_eq!(&restored, first.last());
    assert_eq!(
        forward(&weights, shape, &spec, &restored),
        forward(&weights, shape, &spec, first.last())
    );
}

#[test]
fn hundreds_of_bytes_are_saved() {
    let shape = MatrixShape::new(512, 512);
    let weights = normal(shape.len(), 1, 0.02);
    let spec = Spec::default();
    let start = Prepared::new(&weights, shape, &spec).unwrap().initial().unwrap();
    let (trajectory, _) = forward(&weights, shape, &spec, &start);
    assert!(trajectory.saved_bytes() < 1500, "{}", trajectory.saved_bytes());
}
