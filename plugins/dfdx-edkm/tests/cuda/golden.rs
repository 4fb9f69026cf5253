//! Golden vectors of the definition, from a float64 program in another language, through the device: as edkm-cluster's own test has them on the host, to which
//! the device leaves centroids of vectors and clusters with hardly any weight.

use dfdx::prelude::*;
use dfdx_edkm::device::DeviceMemory;
use dfdx_edkm::ops::clustered_weight::ClusteredWeightKernel;
use dfdx_edkm::ops::linear::{LinearDims, LinearKernel};
use dfdx_edkm::{Bits, Centroids, Clustering, HalfKind, MatrixShape, Spec, Temperature, VectorLen};
use edkm_testkit::assert_close;
use edkm_testkit::golden::{golden_files, Golden};

use crate::{gpu, gradient};

/// Of the largest reference value, as on the host. Results are f32, sums f64 or in integers.
const TOLERANCE: f64 = 2e-5;

#[test]
fn golden_vectors_hold() {
    let dev = gpu();
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
        let clustering = Clustering::new(spec);
        clustering.start_from(Centroids::from_f64(golden.f64s("init_centroids_f64"), clusters, dim).unwrap());
        let weight = dev
            .tensor_from_host(golden.f32s("weight_f32"), (shape.rows, shape.cols))
            .unwrap();
        let dims = LinearDims {
            tokens: 0,
            inputs: shape.cols,
            outputs: shape.rows,
        };

        let found = dev.cluster(&name, Cuda::view(&weight), shape, &clustering).unwrap();
        let steps: Vec<f64> = found.trajectory.palette_steps(0).flatten().copied().collect();
        assert_close(
            &format!("{name}: trajectory"),
            &steps,
            &golden.f64s("trajectory_f64"),
            TOLERANCE,
        );
        let clustered = dev.clustered_weight_forward(dims, Cuda::view(&weight), &found).unwrap();
        let clustered = dev.tensor_from_buffer(clustered, (shape.rows, shape.cols)).unwrap();
        assert_close(
            &format!("{name}: clustered"),
            &clustered.as_vec(),
            &golden.f64s("clustered_f64"),
            TOLERANCE,
        );

        let upstream: Vec<f32> = golden.f64s("upstream_f64").iter().map(|&g| g as f32).collect();
        let mut gradients = Gradients::leaky();
        let grad_out = gradients.get_or_alloc_mut(&clustered).unwrap();
        let cuda = grad_out.device();
        cuda.htod_sync_copy_into(&upstream, grad_out).unwrap();
        let grad_out = grad_out.clone();
        let grad_weight = gradients.get_or_alloc_mut(&weight).unwrap();
        dev.clustered_weight_backward(dims, Cuda::view(&weight), &found, grad_out, grad_weight)
            .unwrap();
        let want = golden.f64s("grad_weight_f64");
        assert!(want.iter().any(|&g| g != 0.0));
        assert_close(
            &format!("{name}: gradient"),
            &gradient(&mut gradients, &weight),
            &want,
            TOLERANCE,
        );

        // the host assigns, to the centroids that the device found
        let palette = clustering.palette(&golden.f32s("weight_f32"), shape).unwrap();
        assert_eq!(&palette.centroids, found.trajectory.last(), "{name}");
        assert_eq!(
            palette.indices.iter().map(|&i| i64::from(i)).collect::<Vec<_>>(),
            golden.i64s("hard_assignment_i64"),
            "{name}: hard assignment"
        );
    }
}
