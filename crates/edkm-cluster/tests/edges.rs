//! Inputs at the edges: refused with a name, or done as documented.

mod common;

use std::num::NonZeroUsize;

use common::{forward, normal};
use edkm_cluster::{
    Bits, Centroids, ClusterError, GradientMode, Grouping, HalfKind, KeepZero, MatrixShape, Prepared, Spec,
    Temperature, VectorLen,
};
use edkm_testkit::{assert_bitwise_equal, assert_close};

const SHAPE: MatrixShape = MatrixShape::new(8, 16);

#[test]
fn weights_that_are_not_finite_are_named() {
    for (value, at) in [
        (f32::NAN, 3),
        (f32::INFINITY, 127),
        (f32::NEG_INFINITY, 64),
        (f32::from_bits(0x7fff_ffff), 0),
    ] {
        for group in [1, 8] {
            let spec = Spec::default().with_grouping(Grouping::PerChannels(NonZeroUsize::new(group).unwrap()));
            let mut weights = normal(128, 1, 0.1);
            weights[at] = value;
            match Prepared::new(&weights, SHAPE, &spec).unwrap_err() {
                ClusterError::NonFinite { index, value: named } => {
                    assert_eq!((index, named.to_bits()), (at, value.to_bits()));
                }
                other => panic!("{other}"),
            }
        }
    }
    // Where the matrix is split over threads.
    let mut weights = normal(200_000, 1, 0.1);
    (weights[150_000], weights[199_999]) = (f32::NAN, f32::NAN);
    let error = Prepared::new(&weights, MatrixShape::new(1, 200_000), &Spec::default()).unwrap_err();
    assert!(error.to_string().starts_with("weight 150000 is NaN"), "{error}");
}

#[test]
fn weights_beyond_the_format_are_named() {
    let mut weights = vec![1.0f32; 128];
    weights[7] = 65_519.0;
    let spec = Spec::default().with_half(HalfKind::F16);
    assert!(Prepared::new(&weights, SHAPE, &spec).is_ok());
    weights[7] = -65_520.0;
    let error = Prepared::new(&weights, SHAPE, &spec).unwrap_err();
    assert_eq!(
        error,
        ClusterError::OutOfRange {
            index: 7,
            value: -65_520.0,
            half: HalfKind::F16
        }
    );
    assert!(error.to_string().contains("bf16"), "{error}");
    assert!(Prepared::new(&weights, SHAPE, &Spec::default()).is_ok());
    weights[7] = f32::MAX;
    let error = Prepared::new(&weights, SHAPE, &Spec::default()).unwrap_err();
    assert_eq!(
        error,
        ClusterError::OutOfRange {
            index: 7,
            value: f32::MAX,
            half: HalfKind::Bf16
        }
    );
}

#[test]
fn slices_and_trajectories_that_do_not_belong_are_refused() {
    let weights = normal(128, 1, 0.1);
    let spec = Spec::default();
    assert!(matches!(
        Prepared::new(&weights[1..], SHAPE, &spec),
        Err(ClusterError::Length {
            expected: 128,
            got: 127,
            ..
        })
    ));
    assert!(matches!(
        Prepared::new(&[], MatrixShape::new(0, 16), &spec),
        Err(ClusterError::Empty { .. })
    ));

    let prepared = Prepared::new(&weights, SHAPE, &spec).unwrap();
    let other = Centroids::from_vec(vec![0.0; 4], 4, 1).unwrap();
    assert!(matches!(
        prepared.iterate(&other),
        Err(ClusterError::Centroids {
            clusters: 8,
            got_clusters: 4,
            ..
        })
    ));
    assert!(prepared.assign(&other).is_err());
    assert!(matches!(
        prepared.initial_weighted(&weights),
        Err(ClusterError::Importance { .. })
    ));
    assert!(matches!(
        prepared.initial_weighted(&[1.0; 3]),
        Err(ClusterError::Length { got: 3, .. })
    ));

    let trajectory = prepared.iterate(&prepared.initial().unwrap()).unwrap();
    let mut out = vec![0.0; 128];
    let long = MatrixShape::new(16, 8);
    assert!(matches!(
        trajectory.clustered_into(&weights, long, &spec, &mut out),
        Err(ClusterError::OtherTrajectory { what: "matrix shape" })
    ));
    let hotter = spec.with_temperature(Temperature::Relative(0.2));
    assert!(matches!(
        trajectory.backward(&weights, SHAPE, &hotter, &mut out),
        Err(ClusterError::OtherTrajectory { what: "specification" })
    ));
    assert!(trajectory
        .clustered_into(&weights, SHAPE, &spec, &mut out[1..])
        .is_err());
    assert!(trajectory.backward(&weights, SHAPE, &spec, &mut out[1..]).is_err());
    assert!(trajectory
        .backward_accumulate(&weights, SHAPE, &spec, &weights[1..], &mut out)
        .is_err());
}

#[test]
fn a_backward_pass_on_other_weights_does_not_panic() {
    let weights = normal(128, 1, 0.1);
    for vector in [VectorLen::One, VectorLen::Two] {
        for gradient in [
            GradientMode::Unrolled,
            GradientMode::Implicit,
            GradientMode::StraightThrough,
        ] {
            for keep_zero in [KeepZero::Free, KeepZero::Exact] {
                let spec = Spec::default()
                    .with_vector(vector)
                    .with_gradient(gradient)
                    .with_keep_zero(keep_zero);
                let prepared = Prepared::new(&weights, SHAPE, &spec).unwrap();
                let trajectory = prepared.iterate(&prepared.initial().unwrap()).unwrap();
                for other in [f32::NAN, f32::INFINITY, f32::MAX, 0.0] {
                    let (mut clustered, mut grad) = ([0.0; 128], [1.0; 128]);
                    let other = [other; 128];
                    trajectory.clustered_into(&other, SHAPE, &spec, &mut clustered).unwrap();
                    trajectory.backward(&other, SHAPE, &spec, &mut grad).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_constant_matrix_stays_constant() {
    for value in [0.0f32, 0.25, -3e38, 1e-40] {
        // As its 16-bit rounding has it.
        let want = half::bf16::from_f32(value).to_f32();
        let weights = vec![value; 128];
        for (spec, vector) in [
            (Spec::default(), VectorLen::One),
            (
                Spec::default().with_gradient(GradientMode::StraightThrough),
                VectorLen::One,
            ),
            (Spec::default(), VectorLen::Two),
            (
                Spec::default().with_gradient(GradientMode::StraightThrough),
                VectorLen::Eight,
            ),
        ] {
            let spec = spec.with_vector(vector);
            let start = Prepared::new(&weights, SHAPE, &spec).unwrap().initial().unwrap();
            assert_eq!(start.as_slice(), vec![want; 8 * vector.get()]);
            let (trajectory, clustered) = forward(&weights, SHAPE, &spec, &start);
            assert_close("clustered", &clustered, &[want; 128], 1e-7);
            let mut grad = normal(128, 2, 1.0);
            let dim = vector.get();
            let mean = |j: usize| grad.iter().skip(j).step_by(dim).sum::<f32>() * dim as f32 / 128.0;
            let means: Vec<f32> = (0..dim).map(mean).collect();
            trajectory.backward(&weights, SHAPE, &spec, &mut grad).unwrap();
            if spec.gradient == GradientMode::Unrolled {
                // Every clustered weight is the mean of all weights. Its gradient is summed in another order here.
                assert!(
                    grad.iter().enumerate().all(|(i, g)| (g - means[i % dim]).abs() < 1e-6),
                    "{grad:?}"
                );
            }
        }
    }
}

#[test]
fn more_clusters_than_values() {
    let values = [0.5f32, -1.0, 2.0];
    let weights: Vec<f32> = (0..128).map(|i| values[i % 3]).collect();
    let spec = Spec::new(Bits::new(8).unwrap()).with_temperature(Temperature::Relative(0.01));
    let prepared = Prepared::new(&weights, SHAPE, &spec).unwrap();
    assert_eq!(prepared.distinct_values(), 3);
    let start = prepared.initial().unwrap();
    let (trajectory, clustered) = forward(&weights, SHAPE, &spec, &start);
    assert_close("clustered", &clustered, &weights, 1e-6);
    let mut grad = normal(128, 2, 1.0);
    trajectory.backward(&weights, SHAPE, &spec, &mut grad).unwrap();
    assert!(grad.iter().all(|g| g.is_finite()));
    let indices = prepared.assign(trajectory.last()).unwrap();
    let hard: Vec<f32> = indices
        .iter()
        .map(|&i| trajectory.last().group(0)[usize::from(i)])
        .collect();
    assert_close("hard", &hard, &weights, 1e-6);
}

#[test]
fn one_weight_and_one_column() {
    let spec = Spec::default();
    for shape in [MatrixShape::new(1, 1), MatrixShape::new(5, 1), MatrixShape::new(1, 5)] {
        let weights = normal(shape.len(), 3, 1.0);
        let start = Prepared::new(&weights, shape, &spec).unwrap().initial().unwrap();
        let (trajectory, clustered) = forward(&weights, shape, &spec, &start);
        let mut grad = clustered.clone();
        trajectory.backward(&weights, shape, &spec, &mut grad).unwrap();
        assert!(clustered.iter().chain(&grad).all(|x| x.is_finite()));
    }
}

/// tau relative to the palette: weights 2^k times larger give clustered weights 2^k times larger, bit for bit.
#[test]
fn scale_does_not_matter() {
    let weights = normal(128, 4, 0.02);
    let spec = Spec::default();
    let run = |scale: f32| {
        let weights: Vec<f32> = weights.iter().map(|w| w * scale).collect();
        let start = Prepared::new(&weights, SHAPE, &spec).unwrap().initial().unwrap();
        let (trajectory, clustered) = forward(&weights, SHAPE, &spec, &start);
        let mut grad = normal(128, 5, 1.0);
        trajectory.backward(&weights, SHAPE, &spec, &mut grad).unwrap();
        (clustered, grad)
    };
    let (clustered, grad) = run(1.0);
    for exponent in [-60, -7, 7, 60] {
        let scale = 2f32.powi(exponent);
        let (scaled, scaled_grad) = run(scale);
        let back: Vec<f32> = scaled.iter().map(|w| w / scale).collect();
        assert_close("clustered", &back, &clustered, 1e-7);
        assert_close("gradient", &scaled_grad, &grad, 1e-6);
    }
}

#[test]
fn zero_vectors_are_kept() {
    let mut weights = normal(128, 6, 0.1);
    for w in weights.chunks_mut(2).step_by(3) {
        w.fill(0.0);
    }
    weights[3] = 0.0;
    for gradient in [
        GradientMode::Unrolled,
        GradientMode::Implicit,
        GradientMode::StraightThrough,
    ] {
        let spec = Spec::default()
            .with_keep_zero(KeepZero::Exact)
            .with_gradient(gradient)
            .with_vector(VectorLen::Two);
        let prepared = Prepared::new(&weights, SHAPE, &spec).unwrap();
        let start = prepared.initial().unwrap();
        let zeros = |c: &Centroids| c.as_slice().chunks(2).filter(|c| *c == [0.0, 0.0]).count();
        assert_eq!(zeros(&start), 1);
        let (trajectory, clustered) = forward(&weights, SHAPE, &spec, &start);
        assert_eq!(zeros(trajectory.last()), 1);
        let mut grad = normal(128, 7, 1.0);
        trajectory.backward(&weights, SHAPE, &spec, &mut grad).unwrap();
        let indices = prepared.assign(trajectory.last()).unwrap();
        assert_eq!(indices.len(), 64);
        for i in (0..64).step_by(3) {
            assert_eq!(
                (&clustered[2 * i..2 * i + 2], &grad[2 * i..2 * i + 2]),
                (&[0.0; 2][..], &[0.0; 2][..])
            );
            let index = usize::from(indices[i]);
            assert_eq!(trajectory.last().group(0)[2 * index..2 * index + 2], [0.0; 2]);
        }
        assert!((2..6).all(|i| clustered[i] != 0.0 || gradient == GradientMode::StraightThrough));
    }
    // Nothing but zeros.
    let spec = Spec::default()
        .with_keep_zero(KeepZero::Exact)
        .with_vector(VectorLen::Four);
    let zeros = vec![0.0f32; 128];
    let start = Prepared::new(&zeros, SHAPE, &spec).unwrap().initial().unwrap();
    let (trajectory, clustered) = forward(&zeros, SHAPE, &spec, &start);
    let mut grad = vec![1.0; 128];
    trajectory.backward(&zeros, SHAPE, &spec, &mut grad).unwrap();
    assert_eq!((&clustered, &grad), (&zeros, &zeros));
}

#[test]
fn zeros_are_kept() {
    let mut weights = normal(128, 6, 0.1);
    for w in weights.iter_mut().step_by(3) {
        *w = 0.0;
    }
    weights[3] = -0.0;
    for gradient in [
        GradientMode::Unrolled,
        GradientMode::Implicit,
        GradientMode::StraightThrough,
    ] {
        let spec = Spec::default().with_keep_zero(KeepZero::Exact).with_gradient(gradient);
        let prepared = Prepared::new(&weights, SHAPE, &spec).unwrap();
        let start = prepared.initial().unwrap();
        assert_eq!(start.as_slice().iter().filter(|&&c| c == 0.0).count(), 1);
        let (trajectory, clustered) = forward(&weights, SHAPE, &spec, &start);
        assert_eq!(trajectory.last().as_slice().iter().filter(|&&c| c == 0.0).count(), 1);
        let mut grad = normal(128, 7, 1.0);
        trajectory.backward(&weights, SHAPE, &spec, &mut grad).unwrap();
        let indices = prepared.assign(trajectory.last()).unwrap();
        for i in 0..128 {
            if i % 3 == 0 {
                assert_eq!((clustered[i], grad[i]), (0.0, 0.0), "{gradient:?}");
                assert_eq!(trajectory.last().group(0)[usize::from(indices[i])], 0.0);
            } else {
                assert!(clustered[i] != 0.0 || gradient == GradientMode::StraightThrough);
            }
        }
        // Zeros take no part: without most of them nothing else changes.
        let others: Vec<f32> = weights.iter().copied().filter(|w| *w != 0.0).chain([0.0]).collect();
        let shape = MatrixShape::new(1, others.len());
        let (_, alone) = forward(&others, shape, &spec, &start);
        let together: Vec<f32> = (0..128).filter(|i| i % 3 != 0).map(|i| clustered[i]).collect();
        assert_bitwise_equal("clustered", &alone[..alone.len() - 1], &together);
    }
}

#[test]
fn nothing_but_zeros_is_kept() {
    let weights = vec![0.0f32; 128];
    let spec = Spec::default().with_keep_zero(KeepZero::Exact);
    let start = Prepared::new(&weights, SHAPE, &spec).unwrap().initial().unwrap();
    let (trajectory, clustered) = forward(&weights, SHAPE, &spec, &start);
    let mut grad = vec![1.0; 128];
    trajectory.backward(&weights, SHAPE, &spec, &mut grad).unwrap();
    assert_eq!((clustered, grad), (weights.clone(), weights));
}

#[test]
fn the_straight_through_gradient_passes() {
    let weights = normal(128, 6, 0.1);
    let spec = Spec::default()
        .with_gradient(GradientMode::StraightThrough)
        .with_iterations(2);
    let prepared = Prepared::new(&weights, SHAPE, &spec).unwrap();
    let (trajectory, clustered) = forward(&weights, SHAPE, &spec, &prepared.initial().unwrap());
    let indices = prepared.assign(trajectory.last()).unwrap();
    let palette: Vec<f32> = indices
        .iter()
        .map(|&i| trajectory.last().group(0)[usize::from(i)])
        .collect();
    assert_bitwise_equal("clustered", &clustered, &palette);
    let upstream = normal(128, 7, 1.0);
    let mut grad = upstream.clone();
    trajectory.backward(&weights, SHAPE, &spec, &mut grad).unwrap();
    assert_bitwise_equal("gradient", &grad, &upstream);
    let mut total = vec![0.0; 128];
    trajectory
        .backward_accumulate(&weights, SHAPE, &spec, &upstream, &mut total)
        .unwrap();
    assert_bitwise_equal("total", &total, &upstream);
}

#[test]
fn a_tolerance_ends_the_repetitions() {
    let weights = normal(128, 6, 0.1);
    let spec = Spec::default().with_iterations(500);
    let steps = |tolerance| {
        let spec = spec.with_tolerance(tolerance);
        let prepared = Prepared::new(&weights, SHAPE, &spec).unwrap();
        prepared.iterate(&prepared.initial().unwrap()).unwrap().steps()
    };
    assert_eq!(steps(0.0), 500);
    assert_eq!(steps(10.0), 1);
    let some = steps(1e-3);
    assert!(1 < some && some < steps(1e-6) && steps(1e-6) < 500);
}

#[test]
fn fingerprints_of_vectors_mind_the_order() {
    let mut weights = normal(128, 6, 0.1);
    let spec = Spec::default().with_vector(VectorLen::Two);
    let print = |weights: &[f32]| Prepared::new(weights, SHAPE, &spec).unwrap().fingerprint();
    let first = print(&weights);
    weights[0] = half::bf16::from_f32(weights[0]).to_f32();
    assert_eq!(first, print(&weights));
    weights.swap(3, 90);
    assert_ne!(first, print(&weights));
}

#[test]
fn fingerprints_tell_weights_apart_whatever_is_done_with_them() {
    let mut weights = normal(128, 6, 0.1);
    let spec = Spec::default();
    let print = |weights: &[f32], spec: &Spec| Prepared::new(weights, SHAPE, spec).unwrap().fingerprint();
    let first = print(&weights, &spec);
    assert_eq!(first, print(&weights, &spec));
    for done in [
        spec.with_temperature(Temperature::Relative(0.11)),
        spec.with_iterations(7),
        spec.with_tolerance(0.5),
        spec.with_gradient(GradientMode::Implicit),
        Spec::new(Bits::new(2).unwrap()),
    ] {
        assert_eq!(first, print(&weights, &done), "{done:?}");
    }
    for read in [
        spec.with_half(HalfKind::F16),
        spec.with_keep_zero(KeepZero::Exact),
        spec.with_vector(VectorLen::Two),
        spec.with_grouping(Grouping::PerChannels(2.try_into().unwrap())),
    ] {
        assert_ne!(first, print(&weights, &read), "{read:?}");
    }
    // Below the 16-bit rounding nothing changes, nor in another order.
    weights[0] = half::bf16::from_f32(weights[0]).to_f32();
    weights.swap(3, 90);
    assert_eq!(first, print(&weights, &spec));
    weights[0] *= 2.0;
    assert_ne!(first, print(&weights, &spec));
}
