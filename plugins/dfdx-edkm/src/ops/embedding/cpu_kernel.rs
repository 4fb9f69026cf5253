use dfdx::prelude::*;
use edkm_kernels::embedding;

use super::EmbeddingKernel;
use crate::ops::linear::{cluster_error, device_error, with_effective, ClusteredUse, LinearDims};
use crate::ops::scratch::with_scratch;
use crate::EdkmError;

type Buffer = <Cpu as Storage<f32>>::Vec;

impl EmbeddingKernel for Cpu {
    fn embedding_forward(
        &self,
        dims: LinearDims,
        table: &[f32],
        clustered: Option<&ClusteredUse>,
        ids: &[u32],
    ) -> Result<Buffer, EdkmError> {
        let mut rows = self.try_alloc_len(ids.len() * dims.inputs).map_err(device_error)?;
        with_effective(dims, table, clustered, |effective| {
            embedding::gather(effective, ids, &mut rows)
        })?;
        Ok(rows)
    }

    fn embedding_backward(
        &self,
        dims: LinearDims,
        table: &[f32],
        clustered: Option<&ClusteredUse>,
        ids: &[u32],
        grad_out: &Buffer,
        grad_table: &mut Buffer,
    ) -> Result<(), EdkmError> {
        match clustered {
            None => embedding::scatter_add(ids, grad_out, grad_table),
            Some(clustered) => with_scratch(table.len(), |grad_clustered| {
                grad_clustered.fill(0.0);
                embedding::scatter_add(ids, grad_out, grad_clustered);
                clustered.backward_accumulate(table, dims.weight_shape(), grad_clustered, grad_table)
            })
            .map_err(cluster_error)?,
        }
        Ok(())
    }
}
