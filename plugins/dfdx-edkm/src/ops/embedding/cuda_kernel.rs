use dfdx::prelude::*;
use edkm_cuda::driver::Gpu;
use edkm_cuda::{embedding, Array, Slice};

use super::EmbeddingKernel;
use crate::device::cuda::{error_of_op, gpu, Buffer, Fresh};
use crate::ops::linear::cuda_clustered::{backward_accumulate, Effective};
use crate::ops::linear::{fresh_on_gpu, ClusteredUse, LinearDims};
use crate::EdkmError;

impl EmbeddingKernel for Cuda {
    fn embedding_forward(
        &self,
        dims: LinearDims,
        table: Slice<'_, f32>,
        clustered: Option<&ClusteredUse>,
        ids: &[u32],
    ) -> Result<Fresh, EdkmError> {
        let gpu = gpu(self).map_err(error_of_op)?;
        let mut rows = fresh_on_gpu(self, ids.len() * dims.inputs)?;
        let effective = Effective::of(&gpu, dims, table, clustered)?;
        embedding::gather(&*gpu, effective.as_slice(), ids, rows.slice_mut()).map_err(error_of_op)?;
        Ok(rows)
    }

    fn embedding_backward(
        &self,
        dims: LinearDims,
        table: Slice<'_, f32>,
        clustered: Option<&ClusteredUse>,
        ids: &[u32],
        grad_out: &Buffer,
        grad_table: &mut Buffer,
    ) -> Result<(), EdkmError> {
        let gpu = Gpu::of_memory(grad_out).map_err(error_of_op)?;
        let (grad_rows, grad_table) = ((&**grad_out).into(), (&mut **grad_table).into());
        let Some(clustered) = clustered else {
            return embedding::scatter_add(&*gpu, ids, grad_rows, grad_table).map_err(error_of_op);
        };
        let mut upstream = Array::zeroed(&*gpu, table.len()).map_err(error_of_op)?;
        embedding::scatter_add(&*gpu, ids, grad_rows, upstream.as_mut()).map_err(error_of_op)?;
        backward_accumulate(&gpu, dims, table, clustered, upstream.as_slice(), grad_table)
    }
}
