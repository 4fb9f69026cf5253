//! What a device takes for the parts that others are measured by: clustering beside copies of its memory, products alone.

use std::time::Instant;

use dfdx::prelude::*;
use dfdx::tensor::Synchronize;
use edkm_cluster::bench::{self, median, normal, ClusterBench};
use edkm_cluster::Spec;
use edkm_kernels::matmul::{self, Accumulate};

use super::DeviceMemory;
use crate::EdkmError;

/// A device that is measured.
pub trait DeviceBench: DeviceMemory + Synchronize {
    /// Clusters a matrix of normally distributed weights and takes a normally distributed gradient back, `repeats` times: medians, as
    /// [`edkm_cluster::bench::run`] has them. What is copied for comparison is copied on the device.
    ///
    /// # Errors
    /// Settings that do not fit the matrix; the device's errors.
    fn bench_clustering(
        &self,
        rows: usize,
        cols: usize,
        spec: &Spec,
        repeats: usize,
    ) -> Result<ClusterBench, EdkmError>;

    /// Seconds of y = x W^T, dx += dy W and dW += dy^T x together, for x `[tokens, inputs]` and W `[outputs, inputs]`: median of five.
    ///
    /// # Errors
    /// The device's.
    fn bench_products(&self, tokens: usize, outputs: usize, inputs: usize) -> Result<f64, EdkmError>;

    /// Bytes of the device's own memory that are taken, by whomever; none if its memory is the host's.
    ///
    /// # Errors
    /// The device's.
    fn taken_bytes(&self) -> Result<Option<u64>, EdkmError>;

    /// What this program uses of the device's own memory, and what was copied to and from it; none if its memory is the host's. Waits for the device.
    ///
    /// # Errors
    /// The device's.
    fn usage(&self) -> Result<Option<DeviceUsage>, EdkmError>;

    /// Lets the peak of [`Self::usage`] begin anew.
    ///
    /// # Errors
    /// The device's.
    fn reset_peak(&self) -> Result<(), EdkmError>;
}

/// What is used of a device whose memory is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceUsage {
    /// Its memory; none where its driver does not tell.
    pub memory: Option<MemoryUsage>,
    /// Copies from it to the host since the program began, without those that dfdx makes.
    pub to_host: Copies,
    /// Copies from the host to it, likewise.
    pub to_device: Copies,
}

/// Memory that this program's numbers take, without what is kept free for later and without the driver's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Bytes at present.
    pub used_bytes: u64,
    /// Bytes at the most since the peak was reset.
    pub peak_bytes: u64,
}

/// Copies in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copies {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Measurements of products, of which the first is not counted.
pub(super) const PRODUCT_REPEATS: usize = 5;

/// x, W and dy for [`DeviceBench::bench_products`].
pub(super) fn operands(tokens: usize, outputs: usize, inputs: usize) -> [Vec<f32>; 3] {
    let shapes = [tokens * inputs, outputs * inputs, tokens * outputs];
    let mut seed = 2;
    shapes.map(|len| {
        seed += 1;
        normal(len, seed, 1.0)
    })
}

impl DeviceBench for Cpu {
    fn bench_clustering(
        &self,
        rows: usize,
        cols: usize,
        spec: &Spec,
        repeats: usize,
    ) -> Result<ClusterBench, EdkmError> {
        bench::run(rows, cols, spec, repeats).map_err(|source| EdkmError::Cluster {
            op: "bench".into(),
            source,
        })
    }

    fn bench_products(&self, tokens: usize, outputs: usize, inputs: usize) -> Result<f64, EdkmError> {
        let [x, w, dy] = operands(tokens, outputs, inputs);
        let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
        let mut times = Vec::new();
        for _ in 0..=PRODUCT_REPEATS {
            let start = Instant::now();
            matmul::nt(tokens, outputs, inputs, &x, &w, &mut y, Accumulate::Overwrite);
            matmul::nn(tokens, inputs, outputs, &dy, &w, &mut dx, Accumulate::Add);
            matmul::tn(outputs, inputs, tokens, &dy, &x, &mut dw, Accumulate::Add);
            times.push(start.elapsed().as_secs_f64());
        }
        times.remove(0);
        Ok(median(times))
    }

    fn taken_bytes(&self) -> Result<Option<u64>, EdkmError> {
        Ok(None)
    }

    fn usage(&self) -> Result<Option<DeviceUsage>, EdkmError> {
        Ok(None)
    }

    fn reset_peak(&self) -> Result<(), EdkmError> {
        Ok(())
    }
}
