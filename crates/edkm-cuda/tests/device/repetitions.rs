//! Clusterings that run on the device of the build against those of the CPU.

use crate::device::{device, Device};
use edkm_cluster::bench::normal;
use edkm_cluster::elsewhere::{palette_starts, Fingerprints};
use edkm_cluster::{
    Bits, Centroids, Grouping, HalfKind, KeepZero, MatrixShape, Prepared, Spec, Temperature, Trajectory,
};
use edkm_cuda::clustering::{Half, Palettes};
use edkm_cuda::repetitions::{backward_accumulate, clustered, forward, is_starved, Found, Settings, Starts};
use edkm_testkit::{assert_bitwise_equal, assert_close};
use std::num::NonZeroUsize;

struct Case {
    weights: Vec<f32>,
    shape: MatrixShape,
    spec: Spec,
}

impl Case {
    fn new(rows: usize, cols: usize, spec: Spec) -> Self {
        let mut weights = normal(rows * cols, 7, 0.03);
        // pruned ones too
        weights.iter_mut().step_by(11).for_each(|w| *w = 0.0);
        Case {
            weights,
            shape: MatrixShape::new(rows, cols),
            spec,
        }
    }

    fn half(&self) -> Half {
        match self.spec.half {
            HalfKind::Bf16 => Half::Bf16,
            HalfKind::F16 => Half::F16,
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            clusters: self.spec.clusters(),
            repetitions: self.spec.iterations,
            keep_zero: self.spec.keep_zero == KeepZero::Exact,
            at_once: 2,
        }
    }

    fn prepared(&self) -> Prepared<'_> {
        Prepared::new(&self.weights, self.shape, &self.spec).unwrap()
    }

    /// On the device, from `known` if the matrix has this fingerprint.
    fn forward(&self, device: &Device, fingerprint: u128, known: &Centroids, other: &Centroids) -> Found {
        let starts = |start| palette_starts(self.shape, &self.spec, start).unwrap();
        let starts = Starts {
            digest: Fingerprints::new(self.shape, &self.spec).digest_of(fingerprint),
            known: starts(known),
            other: starts(other),
        };
        let weights = device.array(&self.weights);
        let len = self.spec.grouping.weights_per_palette(self.shape);
        let palettes = Palettes::new(weights.as_slice(), len, self.half()).expecting(0.06);
        let Ok((found, kept)) = forward(device, palettes, self.settings(), &starts);
        assert!(kept.is_none(), "tables of a small matrix are not worth keeping");
        found
    }

    fn assert_as_on_the_cpu(&self, device: &Device) {
        let prepared = self.prepared();
        let start = prepared.initial().unwrap();
        let want = prepared.iterate(&start).unwrap();
        let found = self.forward(device, 0, want.last(), &start);
        assert_eq!(
            Fingerprints::new(self.shape, &self.spec).of_digest(found.digest),
            prepared.fingerprint()
        );
        let ways = found.ways.expect("no cluster without weights");
        let got = Trajectory::from_ways(self.shape, &self.spec, &start, ways.clone()).unwrap();
        assert_eq!(got.steps(), want.steps());
        for (got, want) in ways.iter().zip(want.ways().unwrap()) {
            assert_eq!(got.tau, want.tau);
            assert_eq!(got.pinned, want.pinned);
            for (name, got, want) in [
                ("centroids", &got.centroids_tk, &want.centroids_tk),
                ("log mass", &got.log_mass_tk, &want.log_mass_tk),
            ] {
                assert_eq!(got.len(), want.len());
                for (got, want) in got.iter().zip(want) {
                    assert!(
                        (got - want).abs() <= 1e-11 * want.abs().max(1e-3),
                        "{name}: {got:e} for {want:e}"
                    );
                }
            }
        }

        let weights = device.array(&self.weights);
        let len = self.spec.grouping.weights_per_palette(self.shape);
        let palettes = Palettes::new(weights.as_slice(), len, self.half()).expecting(0.06);
        let Ok(out) = clustered(device, palettes, self.settings(), &ways, None);
        let mut expected = vec![0.0; self.weights.len()];
        want.clustered_into(&self.weights, self.shape, &self.spec, &mut expected)
            .unwrap();
        let Ok(got) = out.to_host(device);
        assert_close("clustered weights", &got, &expected, 1e-6);

        let upstream = normal(self.weights.len(), 8, 1.0);
        let before = normal(self.weights.len(), 9, 1.0);
        let (grad, mut total) = (device.array(&upstream), device.array(&before));
        let Ok(()) = backward_accumulate(
            device,
            palettes,
            self.settings(),
            &ways,
            None,
            grad.as_slice(),
            &mut total.as_mut(),
        );
        let Ok(got) = total.to_host(device);
        let mut expected = before.clone();
        want.backward_accumulate(&self.weights, self.shape, &self.spec, &upstream, &mut expected)
            .unwrap();
        let difference = |total: &[f32]| -> Vec<f32> { total.iter().zip(&before).map(|(t, b)| t - b).collect() };
        assert_close("gradient", &difference(&got), &difference(&expected), 1e-6);

        // the same bits again
        let mut again = device.array(&before);
        let Ok(()) = backward_accumulate(
            device,
            palettes,
            self.settings(),
            &ways,
            None,
            grad.as_slice(),
            &mut again.as_mut(),
        );
        let Ok(again) = again.to_host(device);
        assert_bitwise_equal("gradient", &again, &got);
    }
}

fn spec(bits: u32) -> Spec {
    Spec::new(Bits::new(bits as _).unwrap())
}

#[test]
fn every_setting_gives_what_the_cpu_gives() {
    let Some(device) = device() else { return };
    let three = spec(3);
    for case in [
        Case::new(40, 50, three),
        Case::new(40, 50, three.with_half(HalfKind::F16)),
        Case::new(40, 50, three.with_keep_zero(KeepZero::Exact)),
        Case::new(40, 50, spec(1).with_iterations(1)),
        Case::new(40, 50, spec(5).with_iterations(4)),
        // the most clusters, of which several rounds of blocks' parts are summed, and of several palettes
        Case::new(200, 300, spec(8).with_iterations(2)),
        Case::new(
            7,
            3000,
            spec(7)
                .with_iterations(2)
                .with_grouping(Grouping::PerChannels(NonZeroUsize::new(3).unwrap())),
        ),
        // ends when nothing moves by much
        Case::new(40, 50, three.with_iterations(30).with_tolerance(0.05)),
        Case::new(40, 50, three.with_temperature(Temperature::Absolute(1e-4))),
        // the last palette has fewer rows, and is not done together with the others
        Case::new(
            7,
            300,
            three.with_grouping(Grouping::PerChannels(NonZeroUsize::new(3).unwrap())),
        ),
    ] {
        case.assert_as_on_the_cpu(&device);
    }
}

#[test]
fn a_matrix_that_is_known_begins_where_it_began() {
    let Some(device) = device() else { return };
    // of few clusters, whose starts come with the launch, and of more
    for bits in [2, 3, 4] {
        let case = Case::new(20, 30, spec(bits));
        let prepared = case.prepared();
        let start = prepared.initial().unwrap();
        let want = prepared.iterate(&start).unwrap();
        let started_at = |found: Found| found.ways.expect("ways")[0].centroids_tk[..1 << bits].to_vec();
        let known = started_at(case.forward(&device, prepared.fingerprint(), &start, want.last()));
        assert_eq!(known, start.group_f64(0));
        let other = started_at(case.forward(&device, prepared.fingerprint() ^ 1, &start, want.last()));
        assert_eq!(other, want.last().group_f64(0));
    }
    let case = Case::new(20, 30, spec(2));
    let start = case.prepared().initial().unwrap();
    // weights of another order are not told apart, others are
    let mut moved = Case::new(20, 30, spec(2));
    moved.weights.rotate_left(1);
    assert_eq!(
        moved.forward(&device, 0, &start, &start).digest,
        case.forward(&device, 0, &start, &start).digest
    );
    moved.weights[0] = 0.5;
    assert_ne!(
        moved.forward(&device, 0, &start, &start).digest,
        case.forward(&device, 0, &start, &start).digest
    );
}

#[test]
fn clusters_without_weights_are_left_to_the_host() {
    let Some(device) = device() else { return };
    let case = Case::new(20, 30, spec(2));
    // too cold for any weight to reach it
    let far = Centroids::from_vec(vec![-0.02, 0.0, 0.02, 1.0], 4, 1).unwrap();
    let case = Case {
        spec: case.spec.with_temperature(Temperature::Absolute(1e-3)),
        ..case
    };
    assert_eq!(case.forward(&device, 0, &far, &far).ways, None);
    let way = case.prepared().iterate(&far).unwrap().ways().unwrap().remove(0);
    assert!(is_starved(&way, case.weights.len()));
    // nothing but zeros that are kept
    let zeros = Case {
        weights: vec![0.0; 600],
        spec: case.spec.with_keep_zero(KeepZero::Exact),
        ..case
    };
    assert_eq!(zeros.forward(&device, 0, &far, &far).ways, None);
}

#[test]
fn what_is_not_finite_shows() {
    let Some(device) = device() else { return };
    let mut case = Case::new(
        6,
        50,
        spec(2).with_grouping(Grouping::PerChannels(NonZeroUsize::new(3).unwrap())),
    );
    let prepared = case.prepared();
    let start = prepared.initial().unwrap();
    let ways = prepared.iterate(&start).unwrap().ways().unwrap();
    let weights = device.array(&case.weights);
    let palettes = Palettes::new(weights.as_slice(), 150, case.half());
    let mut upstream = normal(300, 8, 1.0);
    upstream[200] = f32::INFINITY;
    let (grad, mut total) = (device.array(&upstream), device.array(&vec![0.0; 300]));
    let Ok(()) = backward_accumulate(
        &device,
        palettes,
        case.settings(),
        &ways,
        None,
        grad.as_slice(),
        &mut total.as_mut(),
    );
    let Ok(total) = total.to_host(&device);
    assert!(total[..150].iter().all(|g| g.is_finite()));
    assert!(total[150..].iter().all(|g| g.is_nan()));
    case.weights[160] = f32::NAN;
    let found = case.forward(&device, 0, &start, &start);
    assert!(found.magnitudes[0] < f32::INFINITY.to_bits() && found.magnitudes[1] > f32::INFINITY.to_bits());
}

#[test]
fn what_is_kept_gives_the_same_bits() {
    let Some(device) = device() else { return };
    let case = Case::new(512, 512, spec(2).with_iterations(2));
    let start = Centroids::from_vec(vec![-0.04, -0.01, 0.01, 0.04], 4, 1).unwrap();
    let starts = palette_starts(case.shape, &case.spec, &start).unwrap();
    let starts = Starts {
        digest: [0; 2],
        known: starts.clone(),
        other: starts,
    };
    let weights = device.array(&case.weights);
    let palettes = Palettes::one(weights.as_slice(), case.half()).expecting(0.1);
    let Ok((found, kept)) = forward(&device, palettes, case.settings(), &starts);
    let (ways, kept) = (found.ways.expect("ways"), kept.expect("tables worth keeping"));
    // counts and tables by key
    assert!((512 << 10..520 << 10).contains(&kept.bytes()), "{}", kept.bytes());
    let upstream = device.array(&normal(case.weights.len(), 8, 1.0));
    let both = [None, Some(&kept)].map(|kept| {
        let Ok(out) = clustered(&device, palettes, case.settings(), &ways, kept);
        // what was made in the forward pass is given once
        let Ok(again) = clustered(&device, palettes, case.settings(), &ways, kept);
        let mut total = device.array(&vec![0.5; case.weights.len()]);
        let grad = upstream.as_slice();
        let Ok(()) = backward_accumulate(
            &device,
            palettes,
            case.settings(),
            &ways,
            kept,
            grad,
            &mut total.as_mut(),
        );
        let (Ok(out), Ok(again), Ok(total)) = (out.to_host(&device), again.to_host(&device), total.to_host(&device));
        assert_bitwise_equal("clustered weights", &again, &out);
        (out, total)
    });
    let [(made, made_total), (kept, kept_total)] = both;
    assert_bitwise_equal("clustered weights", &kept, &made);
    assert_bitwise_equal("gradient", &kept_total, &made_total);
}
