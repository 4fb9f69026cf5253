//! Clustering from counts and tables is clustering from weights.

use std::num::NonZeroUsize;

use edkm_cluster::{
    Bits, ClusterError, Counted, GradientMode, Grouping, HalfKind, KeepZero, KeyCounts, MatrixShape, Prepared, Spec,
    VectorLen,
};
use edkm_testkit::{assert_bitwise_equal, assert_close};
use half::{bf16, f16};

const KEYS: usize = 1 << 16;

fn key(half: HalfKind, weight: f32) -> usize {
    usize::from(match half {
        HalfKind::Bf16 => bf16::from_f32(weight).to_bits(),
        HalfKind::F16 => f16::from_f32(weight).to_bits(),
    })
}

/// What a device would count and sum of some weights.
struct Found {
    counts: Vec<u32>,
    sums: Vec<f64>,
    magnitude_bits: u32,
}

fn found(half: HalfKind, weights: &[f32], addends: &[f32]) -> Found {
    let mut found = Found {
        counts: vec![0; KEYS],
        sums: vec![0.0; KEYS],
        magnitude_bits: 0,
    };
    for (&weight, &addend) in weights.iter().zip(addends) {
        found.counts[key(half, weight)] += 1;
        found.sums[key(half, weight)] += f64::from(addend);
        found.magnitude_bits = found.magnitude_bits.max(weight.to_bits() & 0x7fff_ffff);
    }
    found
}

/// Weights with zeros of both signs, and their upstream gradients.
fn matrix(len: usize) -> (Vec<f32>, Vec<f32>) {
    let weight = |i: usize| match i % 11 {
        0 => 0.0,
        1 => -0.0,
        _ => ((i * i * 31 + 7 * i) % 4001) as f32 * 5e-4 - 1.0,
    };
    let upstream = |i: usize| ((i * 37) % 101) as f32 * 0.01 - 0.5;
    ((0..len).map(weight).collect(), (0..len).map(upstream).collect())
}

fn key_counts(found: &Found) -> KeyCounts<'_> {
    KeyCounts {
        counts: &found.counts,
        magnitude_bits: found.magnitude_bits,
    }
}

fn check(spec: Spec, shape: MatrixShape) {
    let (weights, upstream) = matrix(shape.len());
    let palettes = spec.grouping.palettes(shape);
    let ranges: Vec<_> = (0..palettes).map(|i| spec.grouping.weights_of(shape, i)).collect();
    let found: Vec<Found> = ranges
        .iter()
        .map(|range| found(spec.half, &weights[range.clone()], &upstream[range.clone()]))
        .collect();
    let counts: Vec<_> = found.iter().map(key_counts).collect();
    let counted = Counted::new(shape, &spec, &counts).unwrap().expect("all are finite");
    let prepared = Prepared::new(&weights, shape, &spec).unwrap();
    assert_eq!(counted.fingerprint(), prepared.fingerprint(), "{spec:?}");
    let start = prepared.initial().unwrap();
    assert_eq!(counted.initial(), start, "{spec:?}");
    let (got, want) = (counted.iterate(&start).unwrap(), prepared.iterate(&start).unwrap());
    assert_eq!((got.last(), got.steps()), (want.last(), want.steps()), "{spec:?}");

    let mut clustered = vec![0.0; shape.len()];
    want.clustered_into(&weights, shape, &spec, &mut clustered).unwrap();
    let mut gradient = upstream.clone();
    want.backward(&weights, shape, &spec, &mut gradient).unwrap();
    // a trajectory of the weights serves as well as one of the counts
    for trajectory in [&got, &want] {
        for (i, range) in ranges.iter().enumerate() {
            let (mut table, mut pairs) = (vec![0.0; KEYS], vec![[0.0; 2]; KEYS]);
            trajectory.clustered_table(i, &mut table).unwrap();
            trajectory
                .gradient_table(i, &found[i].counts, &found[i].sums, &mut pairs)
                .unwrap();
            let keys = weights[range.clone()].iter().map(|&weight| key(spec.half, weight));
            let looked_up: Vec<f32> = keys.clone().map(|key| table[key]).collect();
            assert_bitwise_equal(&format!("{spec:?}"), &looked_up, &clustered[range.clone()]);
            let through: Vec<f32> = keys
                .zip(&upstream[range.clone()])
                .map(|(key, grad)| grad * pairs[key][0] + pairs[key][1])
                .collect();
            // sums of gradients in another order, in f64
            assert_close(&format!("{spec:?}"), &through, &gradient[range.clone()], 1e-6);
        }
    }
}

#[test]
fn tables_of_counts_give_what_passes_over_weights_give() {
    let bits = Bits::new(3).unwrap();
    let gradients = [
        GradientMode::Unrolled,
        GradientMode::Implicit,
        GradientMode::StraightThrough,
    ];
    for half in [HalfKind::Bf16, HalfKind::F16] {
        for gradient in gradients {
            for keep_zero in [KeepZero::Free, KeepZero::Exact] {
                let spec = Spec::new(bits)
                    .with_half(half)
                    .with_gradient(gradient)
                    .with_keep_zero(keep_zero);
                // on one thread and on all; whole palettes, and groups of which the last is smaller
                for shape in [MatrixShape::new(9, 40), MatrixShape::new(64, 1024)] {
                    check(spec, shape);
                    let grouping = Grouping::PerChannels(NonZeroUsize::new(7).unwrap());
                    check(spec.with_grouping(grouping), shape);
                }
            }
        }
    }
}

#[test]
fn counts_that_are_not_those_of_the_weights_are_refused() {
    let (shape, spec) = (MatrixShape::new(4, 10), Spec::default());
    let (weights, upstream) = matrix(40);
    let right = found(spec.half, &weights, &upstream);
    let new =
        |spec: &Spec, counts: &[KeyCounts<'_>]| Counted::new(shape, spec, counts).map(|counted| counted.is_some());
    assert!(new(&spec, &[key_counts(&right)]).unwrap());
    assert!(matches!(new(&spec, &[]), Err(ClusterError::Length { .. })));
    let fewer = found(spec.half, &weights[1..], &upstream);
    assert!(matches!(
        new(&spec, &[key_counts(&fewer)]),
        Err(ClusterError::Length {
            expected: 40,
            got: 39,
            ..
        })
    ));
    let short = KeyCounts {
        counts: &right.counts[1..],
        ..key_counts(&right)
    };
    assert!(matches!(new(&spec, &[short]), Err(ClusterError::Length { .. })));
    let pairs = spec.with_vector(VectorLen::Two);
    assert!(matches!(
        new(&pairs, &[key_counts(&right)]),
        Err(ClusterError::CountedVectors { dim: 2 })
    ));
    for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
        let mut weights = weights.clone();
        weights[3] = bad;
        let found = found(spec.half, &weights, &upstream);
        assert!(!new(&spec, &[key_counts(&found)]).unwrap(), "{bad} was taken");
    }

    let prepared = Prepared::new(&weights, shape, &spec).unwrap();
    let trajectory = prepared.iterate(&prepared.initial().unwrap()).unwrap();
    let mut table = vec![0.0; KEYS];
    assert!(matches!(
        trajectory.clustered_table(1, &mut table),
        Err(ClusterError::OtherTrajectory { .. })
    ));
    assert!(matches!(
        trajectory.clustered_table(0, &mut table[1..]),
        Err(ClusterError::Length { .. })
    ));
}
