use dfdx::prelude::*;
use edkm_cuda::driver::Gpu;
use edkm_cuda::Slice;

use super::ClusteredWeightKernel;
use crate::device::cuda::{error_of_op, gpu, Buffer, Fresh};
use crate::ops::linear::cuda_clustered::{backward_accumulate, Effective};
use crate::ops::linear::{fresh_on_gpu, ClusteredUse, LinearDims};
use crate::EdkmError;

impl ClusteredWeightKernel for Cuda {
    fn clustered_weight_forward(
        &self,
        dims: LinearDims,
        weight: Slice<'_, f32>,
        clustered: &ClusteredUse,
    ) -> Result<Fresh, EdkmError> {
        let gpu = gpu(self).map_err(error_of_op)?;
        let effective = Effective::of(&gpu, dims, weight, Some(clustered))?;
        let mut out = fresh_on_gpu(self, weight.len())?;
        gpu.copy(effective.as_slice(), out.slice_mut()).map_err(error_of_op)?;
        Ok(out)
    }

    fn clustered_weight_backward(
        &self,
        dims: LinearDims,
        weight: Slice<'_, f32>,
        clustered: &ClusteredUse,
        grad_out: Buffer,
        grad_weight: &mut Buffer,
    ) -> Result<(), EdkmError> {
        let gpu = Gpu::of_memory(&grad_out).map_err(error_of_op)?;
        backward_accumulate(
            &gpu,
            dims,
            weight,
            clustered,
            (&*grad_out).into(),
            (&mut **grad_weight).into(),
        )
    }
}
