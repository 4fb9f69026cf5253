//! Golden vectors of the definition, from a float64 program in another language.

mod common;

use edkm_cluster::{Bits, Centroids, HalfKind, MatrixShape, Prepared, Spec, Temperature, VectorLen};
use edkm_testkit::assert_close;
use edkm_testkit::golden::{golden_files, Golden};

/// Of the largest reference value. Results are f32, sums f64.
const TOLERANCE: f64 = 2e-5;

#[test]
fn golden_vectors_hold() {
    for path in golden_files("dkm_") {
        let golden = Golden::read(&path);
        let name = golden.name();
        let shape = golden.shape("weight_f32");
        let shape = MatrixShape::new(shape[0], shape[1]);
        let clusters: usize = golden.metadata_as("clusters");
        let dim: usize = golden.metadata_as("dim");
        let half = match golden.metadata_as::<String>("half").as_str() {
            "bf16" => HalfKind::Bf16,
            "f16" => HalfKind::F16,
            other => panic!("{name}: half `{other}`"),
        };
        let spec = Spec::new(Bits::new(clusters.ilog2() as u8).unwrap())
            .with_half(half)
            .with_temperature(Temperature::Absolute(golden.metadata_as("tau")))
            .with_iterations(golden.metadata_as("iterations"))
            .with_vector(VectorLen::new(dim).unwrap());
        let weights = golden.f32s("weight_f32");
        let start = golden.f64s("init_centroids_f64");
        let start = Centroids::from_f64(start, clusters, dim).unwrap();

        let (trajectory, clustered) = common::forward(&weights, shape, &spec, &start);
        let steps: Vec<f64> = trajectory.palette_steps(0).flatten().copied().collect();
        assert_close(
            &format!("{name}: trajectory"),
            &steps,
            &golden.f64s("trajectory_f64"),
            TOLERANCE,
        );
        assert_close(
            &format!("{name}: clustered"),
            &clustered,
            &golden.f64s("clustered_f64"),
            TOLERANCE,
        );

        let mut grad: Vec<f32> = golden.f64s("upstream_f64").iter().map(|&g| g as f32).collect();
        trajectory.backward(&weights, shape, &spec, &mut grad).unwrap();
        let want = golden.f64s("grad_weight_f64");
        assert!(want.iter().any(|&g| g != 0.0));
        assert_close(&format!("{name}: gradient"), &grad, &want, TOLERANCE);

        let indices = Prepared::new(&weights, shape, &spec)
            .unwrap()
            .assign(trajectory.last())
            .unwrap();
        let want = golden.i64s("hard_assignment_i64");
        assert_eq!(
            indices.iter().map(|&i| i64::from(i)).collect::<Vec<_>>(),
            want,
            "{name}: hard assignment"
        );
    }
}
