//! The dense float64 definition on random matrices, and central differences.

mod common;

use std::num::NonZeroUsize;

use common::{dense, forward, normal};
use edkm_cluster::{Bits, Centroids, Grouping, HalfKind, MatrixShape, Prepared, Spec, Temperature, VectorLen};
use edkm_testkit::assert_close;
use proptest::prelude::*;

/// Compares forward and backward with the definition.
fn check(weights: &[f32], shape: MatrixShape, spec: &Spec, start: &Centroids) {
    let upstream = normal(weights.len(), 99, 1.0);
    let (trajectory, clustered) = forward(weights, shape, spec, start);
    let want = dense(weights, shape, spec, &trajectory, &upstream);
    for (palette, want) in want.trajectory.iter().enumerate() {
        let steps: Vec<f64> = trajectory.palette_steps(palette).flatten().copied().collect();
        // Both in f64; the exponents may be some hundred, which magnifies roundings.
        assert_close("trajectory", &steps, &want.concat(), 1e-9);
    }
    // Results are rounded to f32 once, the gradient thrice.
    assert_close("clustered", &clustered, &want.clustered, 1e-7);
    let mut grad = upstream.clone();
    trajectory.backward(weights, shape, spec, &mut grad).unwrap();
    assert_close("gradient", &grad, &want.gradient, 3e-7);

    let mut total = vec![1.0f32; grad.len()];
    trajectory
        .backward_accumulate(weights, shape, spec, &upstream, &mut total)
        .unwrap();
    let sum: Vec<f32> = grad.iter().map(|g| g + 1.0).collect();
    // A vector's gradient comes in parts, one for each repetition.
    assert_close("total", &total, &sum, 1e-6);
}

fn start(weights: &[f32], shape: MatrixShape, spec: &Spec) -> Centroids {
    Prepared::new(weights, shape, spec).unwrap().initial().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn matches_the_dense_definition(
        rows in 1usize..40,
        cols in 1usize..70,
        bits in 1u8..=5,
        group in prop_oneof![Just(0usize), 1usize..10],
        f16 in any::<bool>(),
        relative in 0.01f64..2.0,
        iterations in 1usize..5,
        scale in prop_oneof![Just(1e-20f32), Just(0.02f32), Just(50.0f32)],
        dim in prop_oneof![Just(1usize), Just(2), Just(4), Just(8)],
        seed in any::<u64>(),
    ) {
        let shape = MatrixShape::new(rows, cols.next_multiple_of(dim));
        // Half precision has no numbers as small as 1e-20.
        let scale = if f16 { 0.02 } else { scale };
        let weights = normal(shape.len(), seed, scale);
        let spec = Spec::new(Bits::new(bits).unwrap())
            .with_half(if f16 { HalfKind::F16 } else { HalfKind::Bf16 })
            .with_grouping(NonZeroUsize::new(group).map_or(Grouping::PerTensor, Grouping::PerChannels))
            .with_temperature(Temperature::Relative(relative))
            .with_iterations(iterations)
            .with_vector(VectorLen::new(dim).unwrap());
        check(&weights, shape, &spec, &start(&weights, shape, &spec));
    }
}

/// One palette that is split over threads, with sizes around the parts of 65,536 weights and blocks of 512.
#[test]
fn matches_the_dense_definition_across_parts() {
    for (rows, cols) in [(128, 512), (1, 65_536 + 1), (3, 65_536 - 1), (131, 1000)] {
        let shape = MatrixShape::new(rows, cols);
        let weights = normal(shape.len(), 5, 0.02);
        let spec = Spec::new(Bits::new(3).unwrap()).with_temperature(Temperature::Relative(0.2));
        check(&weights, shape, &spec, &start(&weights, shape, &spec));
    }
}

/// A start in no order, with two centroids that coincide, and with centroids far from every weight: the softmax of the
/// latter underflows in any other than the definition's own terms.
#[test]
fn any_start_is_followed() {
    let shape = MatrixShape::new(16, 32);
    let weights = normal(shape.len(), 8, 0.02);
    for start in [
        vec![0.03, -0.03, 0.0, 0.01, -0.01, 0.05, -0.05, 0.02],
        vec![0.03, -0.03, 0.0, 0.0, -0.01, 0.05, -0.05, 0.02],
        vec![0.13, -0.03, 0.0, 0.0, -0.01, 0.05, -0.05, 0.02],
        vec![0.13, -0.03, 0.0, 0.12, -0.13, 0.05, -0.05, 0.02],
    ] {
        let start = Centroids::from_vec(start, 8, 1).unwrap();
        for tau in [1e-5, 1e-4, 1e-3] {
            let spec = Spec::default().with_temperature(Temperature::Absolute(tau));
            check(&weights, shape, &spec, &start);
        }
    }
}

/// Vectors in several tiles of 16,384, from one thread's and from several threads' worth of weights.
#[test]
fn vectors_match_the_dense_definition_across_tiles() {
    for (dim, rows, cols) in [(2, 3, 20_000), (4, 5, 16_384), (8, 130, 1032)] {
        let shape = MatrixShape::new(rows, cols);
        let weights = normal(shape.len(), 6, 0.02);
        let spec = Spec::new(Bits::new(4).unwrap())
            .with_vector(VectorLen::new(dim).unwrap())
            .with_temperature(Temperature::Relative(0.1))
            .with_iterations(2);
        check(&weights, shape, &spec, &start(&weights, shape, &spec));
    }
}

/// Clusters with hardly a vector, as for scalars.
#[test]
fn any_start_of_vectors_is_followed() {
    let shape = MatrixShape::new(16, 32);
    let weights = normal(shape.len(), 8, 0.02);
    let spec = Spec::new(Bits::new(2).unwrap()).with_vector(VectorLen::Two);
    for far in [0.05, 0.1, 0.12] {
        let start = Centroids::from_vec(vec![0.01, 0.0, -0.01, 0.01, far, far, -0.01, 0.01], 4, 2).unwrap();
        for tau in [1e-4, 2e-4, 1e-3] {
            check(
                &weights,
                shape,
                &spec.with_temperature(Temperature::Absolute(tau)),
                &start,
            );
        }
    }
}

/// Many equal weights, zeros of both signs, and few distinct values.
#[test]
fn ties_match_the_definition() {
    let shape = MatrixShape::new(32, 33);
    let values = [0.0, -0.0, 0.0625, -0.0625, 0.5, 0.0, 0.25];
    let weights: Vec<f32> = (0..shape.len()).map(|i| values[i * 5 % 7]).collect();
    let spec = Spec::default().with_temperature(Temperature::Relative(0.5));
    check(&weights, shape, &spec, &start(&weights, shape, &spec));
    let palette: Vec<f32> = (0..8).map(|k| k as f32 * 0.06 - 0.1).collect();
    check(&weights, shape, &spec, &Centroids::from_vec(palette, 8, 1).unwrap());
}

/// The gradient of a group, by moving one weight at a time, on weights that 16 bits hold exactly.
#[test]
fn backward_is_the_central_difference() {
    let shape = MatrixShape::new(4, 6);
    let spec = Spec::new(Bits::new(2).unwrap())
        .with_temperature(Temperature::Absolute(0.3))
        .with_grouping(Grouping::PerChannels(NonZeroUsize::new(3).unwrap()))
        .with_half(HalfKind::F16);
    // Multiples of 2^-6: the step of 2^-7 stays within the 11 bits of f16.
    let weights: Vec<f32> = (0..24).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
    let start = Centroids::from_vec(vec![-0.6, -0.2, 0.3, 0.5, -0.5, -0.1, 0.2, 0.6], 4, 1).unwrap();
    let upstream = normal(24, 4, 1.0);
    let loss = |weights: &[f32]| -> f64 {
        let (_, clustered) = forward(weights, shape, &spec, &start);
        clustered
            .iter()
            .zip(&upstream)
            .map(|(w, g)| f64::from(*w) * f64::from(*g))
            .sum()
    };
    let step = 1.0 / 128.0;
    let difference: Vec<f64> = (0..24)
        .map(|i| {
            let (mut up, mut down) = (weights.clone(), weights.clone());
            up[i] += step;
            down[i] -= step;
            (loss(&up) - loss(&down)) / (2.0 * f64::from(step))
        })
        .collect();
    let (trajectory, _) = forward(&weights, shape, &spec, &start);
    let mut grad = upstream.clone();
    trajectory.backward(&weights, shape, &spec, &mut grad).unwrap();
    // Truncation: step^2 / 6 times third derivatives of order 10.
    assert_close("gradient", &grad, &difference, 1e-3);
}
