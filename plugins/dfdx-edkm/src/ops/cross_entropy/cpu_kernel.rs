use dfdx::prelude::*;
use edkm_kernels::cross_entropy::{self, Losses};

use super::{CrossEntropyKernel, CrossEntropySaved, Targets};
use crate::ops::linear::{cluster_error, device_error, with_effective, ClusteredUse, LinearDims};
use crate::ops::scratch::with_scratch;
use crate::EdkmError;

type Buffer = <Cpu as Storage<f32>>::Vec;

impl CrossEntropyKernel for Cpu {
    fn cross_entropy_forward(
        &self,
        dims: LinearDims,
        x: &[f32],
        head: &[f32],
        clustered: Option<&ClusteredUse>,
        targets: &Targets,
    ) -> Result<(Losses, Buffer), EdkmError> {
        let mut lse = self.try_alloc_len(dims.tokens).map_err(device_error)?;
        let losses = with_effective(dims, head, clustered, |effective| {
            cross_entropy::forward(x, effective, &targets.ids, &targets.weights, &mut lse)
        })?;
        Ok((losses, lse))
    }

    fn cross_entropy_backward(
        &self,
        dims: LinearDims,
        saved: CrossEntropySaved<'_, Self>,
        grad_loss: &Buffer,
        grad_x: &mut Buffer,
        grad_head: &mut Buffer,
    ) -> Result<(), EdkmError> {
        let CrossEntropySaved {
            x,
            head,
            clustered,
            lse,
            targets,
            scale,
        } = saved;
        let scale = scale * grad_loss[0];
        let Targets { ids, weights } = targets;
        let Some(clustered_use) = clustered else {
            cross_entropy::backward(x, head, ids, weights, lse, scale, grad_x, grad_head);
            return Ok(());
        };
        with_scratch(head.len(), |grad_clustered| {
            grad_clustered.fill(0.0);
            with_effective(dims, head, clustered, |effective| {
                cross_entropy::backward(x, effective, ids, weights, lse, scale, grad_x, grad_clustered);
            })?;
            clustered_use
                .backward_accumulate(head, dims.weight_shape(), grad_clustered, grad_head)
                .map_err(cluster_error)
        })
    }
}
