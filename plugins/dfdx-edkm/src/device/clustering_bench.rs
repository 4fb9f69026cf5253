//! How long clustering takes on a device beside the time to copy its memory.

use dfdx::prelude::*;
use edkm_cluster::bench::{self, ClusterBench};
use edkm_cluster::Spec;

use super::DeviceMemory;
use crate::EdkmError;

/// A device on which clustering is measured.
pub trait ClusteringBench: DeviceMemory {
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
}

impl ClusteringBench for Cpu {
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
}
