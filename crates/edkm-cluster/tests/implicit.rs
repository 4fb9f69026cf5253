//! Implicit differentiation at the fixed point against unrolling until nothing moves.

mod common;

use common::{forward, normal};
use edkm_cluster::{Bits, GradientMode, MatrixShape, Prepared, Spec, Temperature, VectorLen};

/// The largest difference, beside the largest number.
fn relative(got: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let difference = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
    difference.fold(0.0, |m: f32, x| if x <= m { m } else { x }) / largest
}

#[test]
fn agrees_with_two_hundred_unrolled_repetitions() {
    let shape = MatrixShape::new(32, 64);
    let weights = normal(shape.len(), 11, 0.05);
    let scalars = Spec::new(Bits::new(2).unwrap());
    for (spec, temperature) in [
        (scalars, 0.05),
        (scalars, 0.3),
        (Spec::new(Bits::new(3).unwrap()), 0.15),
        (scalars.with_vector(VectorLen::Two), 0.1),
    ] {
        // Where the repetition has converged, which 200 repetitions from a k-means need not have.
        let soft = spec
            .with_temperature(Temperature::Relative(temperature))
            .with_iterations(1000);
        let prepared = Prepared::new(&weights, shape, &soft).unwrap();
        let converged = prepared.iterate(&prepared.initial().unwrap()).unwrap();
        let start = converged.last().clone();
        let tau = converged.taus().next().unwrap();
        let spec = spec.with_temperature(Temperature::Absolute(tau)).with_iterations(200);
        let gradient = |mode| {
            let spec = spec.with_gradient(mode);
            let (trajectory, _) = forward(&weights, shape, &spec, &start);
            let mut grad = normal(shape.len(), 12, 1.0);
            trajectory.backward(&weights, shape, &spec, &mut grad).unwrap();
            (trajectory.saved_bytes(), grad)
        };
        let (unrolled_bytes, unrolled) = gradient(GradientMode::Unrolled);
        let (implicit_bytes, implicit) = gradient(GradientMode::Implicit);
        let error = relative(&implicit, &unrolled);
        assert!(error <= 1e-3, "{spec:?}: {error}");
        assert!(implicit_bytes < unrolled_bytes / 20);
    }
}
