use dfdx::prelude::*;
use edkm_kernels::cross_entropy::{self, Kept, Losses};

use super::{CrossEntropyKernel, CrossEntropySaved, Follows, Targets};
use crate::ops::linear::{with_effective, with_gradient, ClusteredUse, LinearDims};
use crate::EdkmError;

type Buffer = <Cpu as Storage<f32>>::Vec;

impl CrossEntropyKernel for Cpu {
    type CrossEntropyKept = Kept;

    fn cross_entropy_forward(
        &self,
        dims: LinearDims,
        x: &[f32],
        head: &[f32],
        clustered: Option<&ClusteredUse>,
        targets: &Targets,
        follows: Follows,
    ) -> Result<(Losses, Kept), EdkmError> {
        let forward = match follows {
            Follows::Nothing => cross_entropy::forward,
            Follows::Backward => cross_entropy::forward_ahead,
        };
        with_effective(dims, head, clustered, |effective| {
            forward(x, effective, &targets.ids, &targets.weights)
        })
    }

    fn cross_entropy_backward(
        &self,
        dims: LinearDims,
        saved: CrossEntropySaved<'_, Self>,
        kept: Kept,
        grad_loss: &Buffer,
        grad_x: &mut Buffer,
        grad_head: &mut Buffer,
    ) -> Result<(), EdkmError> {
        let scale = saved.scale * grad_loss[0];
        let Targets { ids, weights } = saved.targets;
        with_gradient(dims, saved.head, saved.clustered, grad_head, |head, grad_head| {
            cross_entropy::backward(saved.x, head, ids, weights, kept, scale, grad_x, grad_head);
        })
    }
}
