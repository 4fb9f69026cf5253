use std::time::Instant;

use dfdx::prelude::*;
use edkm_cluster::bench::{median, normal, ClusterBench};
use edkm_cluster::{MatrixShape, Prepared, Spec};
use edkm_cuda::driver::{self, Gpu, GpuError};
use edkm_cuda::product::{self, Accumulate};
use edkm_cuda::Array;

use super::{error_of_op, gpu};
use crate::device::bench::{operands, Copies, DeviceBench, DeviceUsage, MemoryUsage, PRODUCT_REPEATS};
use crate::ops::linear::cuda_clustered::{self, backward_accumulate, cluster, Effective};
use crate::ops::linear::LinearDims;
use crate::{Clustering, EdkmError};

impl DeviceBench for Cuda {
    /// Memory: nine matrices on the GPU.
    fn bench_clustering(
        &self,
        rows: usize,
        cols: usize,
        spec: &Spec,
        repeats: usize,
    ) -> Result<ClusterBench, EdkmError> {
        let gpu = &*gpu(self).map_err(error_of_op)?;
        let shape = MatrixShape::new(rows, cols);
        let refused = |source| EdkmError::Cluster {
            op: "bench".into(),
            source,
        };
        spec.check_for(shape).map_err(refused)?;
        // those of the CPU
        let (weights, upstream) = (normal(shape.len(), 1, 0.02), normal(shape.len(), 2, 1.0));
        let distinct_values = Prepared::new(&weights, shape, spec).map_err(refused)?.distinct_values();
        let dims = LinearDims {
            tokens: 1,
            inputs: cols,
            outputs: rows,
        };
        let array = |numbers: &[f32]| Array::<Gpu, f32>::from_host(gpu, numbers).map_err(error_of_op);
        let zeros = || Array::<Gpu, f32>::zeroed(gpu, shape.len()).map_err(error_of_op);
        let (w, g, mut total) = (array(&weights)?, array(&upstream)?, zeros()?);
        let mut copies = [zeros()?, zeros()?, zeros()?, zeros()?];
        let clustering = Clustering::new(*spec);
        let mut times: [Vec<f64>; 3] = Default::default();
        let mut saved_bytes = 0;
        let since = |time: Instant| -> Result<f64, EdkmError> {
            gpu.wait().map_err(error_of_op)?;
            Ok(time.elapsed().as_secs_f64())
        };
        for repeat in 0..=repeats.max(1) {
            gpu.wait().map_err(error_of_op)?;
            let time = Instant::now();
            let used = cluster(gpu, "bench", w.as_slice(), shape, &clustering)?;
            let clustered = Effective::of(gpu, dims, w.as_slice(), Some(&used))?;
            let forward = since(time)?;

            let time = Instant::now();
            backward_accumulate(gpu, dims, w.as_slice(), &used, g.as_slice(), total.as_mut())?;
            let backward = since(time)?;

            let from = [w.as_slice(), clustered.as_slice(), g.as_slice(), total.as_slice()];
            let time = Instant::now();
            for (from, to) in from.into_iter().zip(&mut copies) {
                gpu.copy(from, to.as_mut()).map_err(error_of_op)?;
            }
            let memcpy = since(time)?;
            saved_bytes = cuda_clustered::saved_bytes(&used);
            if repeat > 0 {
                for (times, time) in times.iter_mut().zip([forward, backward, memcpy]) {
                    times.push(time);
                }
            }
        }
        let [forward_seconds, backward_seconds, memcpy_seconds] = times.map(median);
        Ok(ClusterBench {
            forward_seconds,
            backward_seconds,
            memcpy_seconds,
            distinct_values,
            saved_bytes,
        })
    }

    fn bench_products(&self, tokens: usize, outputs: usize, inputs: usize) -> Result<f64, EdkmError> {
        let gpu = &*gpu(self).map_err(error_of_op)?;
        let [x, w, dy] = operands(tokens, outputs, inputs);
        let array = |numbers: &[f32]| Array::<Gpu, f32>::from_host(gpu, numbers);
        let run = || -> Result<f64, GpuError> {
            let (x, w, dy) = (array(&x)?, array(&w)?, array(&dy)?);
            let (mut y, mut dx, mut dw) = (
                Array::zeroed(gpu, tokens * outputs)?,
                Array::zeroed(gpu, tokens * inputs)?,
                Array::zeroed(gpu, outputs * inputs)?,
            );
            let (x, w, dy) = (x.as_slice(), w.as_slice(), dy.as_slice());
            let mut times = Vec::new();
            for _ in 0..=PRODUCT_REPEATS {
                gpu.wait()?;
                let start = Instant::now();
                product::nt(gpu, [tokens, outputs, inputs], x, w, y.as_mut(), Accumulate::Overwrite)?;
                product::nn(gpu, [tokens, inputs, outputs], dy, w, dx.as_mut(), Accumulate::Add)?;
                product::tn(gpu, [outputs, inputs, tokens], dy, x, dw.as_mut(), Accumulate::Add)?;
                gpu.wait()?;
                times.push(start.elapsed().as_secs_f64());
            }
            times.remove(0);
            Ok(median(times))
        };
        run().map_err(error_of_op)
    }

    fn taken_bytes(&self) -> Result<Option<u64>, EdkmError> {
        let gpu = gpu(self).map_err(error_of_op)?;
        gpu.taken_bytes().map(Some).map_err(error_of_op)
    }

    fn usage(&self) -> Result<Option<DeviceUsage>, EdkmError> {
        let gpu = gpu(self).map_err(error_of_op)?;
        let pool = gpu.pool_use().map_err(error_of_op)?;
        let traffic = gpu.traffic();
        Ok(Some(DeviceUsage {
            memory: pool.map(|pool| MemoryUsage {
                used_bytes: pool.used_bytes,
                peak_bytes: pool.peak_bytes,
            }),
            to_host: traffic.to_host.into(),
            to_device: traffic.to_gpu.into(),
        }))
    }

    fn reset_peak(&self) -> Result<(), EdkmError> {
        let gpu = gpu(self).map_err(error_of_op)?;
        gpu.reset_peak().map_err(error_of_op)
    }
}

impl From<driver::Copies> for Copies {
    fn from(copies: driver::Copies) -> Self {
        Self {
            count: copies.count,
            bytes: copies.bytes,
        }
    }
}
