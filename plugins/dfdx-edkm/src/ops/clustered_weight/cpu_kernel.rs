use dfdx::prelude::*;

use super::ClusteredWeightKernel;
use crate::ops::linear::{cluster_error, device_error, ClusteredUse, LinearDims};
use crate::EdkmError;

type Buffer = <Cpu as Storage<f32>>::Vec;

impl ClusteredWeightKernel for Cpu {
    fn clustered_weight_forward(
        &self,
        dims: LinearDims,
        weight: &[f32],
        clustered: &ClusteredUse,
    ) -> Result<Buffer, EdkmError> {
        let mut out: Buffer = self.try_alloc_len(weight.len()).map_err(device_error)?;
        clustered
            .clustered_into(weight, dims.weight_shape(), &mut out)
            .map_err(cluster_error)?;
        Ok(out)
    }

    fn clustered_weight_backward(
        &self,
        dims: LinearDims,
        weight: &[f32],
        clustered: &ClusteredUse,
        mut grad_out: Buffer,
        grad_weight: &mut Buffer,
    ) -> Result<(), EdkmError> {
        clustered
            .backward_accumulate(weight, dims.weight_shape(), &mut grad_out, grad_weight)
            .map_err(cluster_error)
    }
}
