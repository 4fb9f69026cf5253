use dfdx::prelude::*;
use edkm_cuda::cross_entropy::{self, Kept, Projection};
use edkm_cuda::driver::Gpu;
use edkm_cuda::Slice;
use edkm_kernels::cross_entropy::Losses;

use super::{CrossEntropyKernel, CrossEntropySaved, Follows, Targets};
use crate::device::cuda::{error_of_op, gpu, Buffer};
use crate::ops::linear::cuda_clustered::{with_gradient, Effective};
use crate::ops::linear::{ClusteredUse, LinearDims};
use crate::EdkmError;

impl CrossEntropyKernel for Cuda {
    type CrossEntropyKept = Kept<Gpu>;

    fn cross_entropy_forward(
        &self,
        dims: LinearDims,
        x: Slice<'_, f32>,
        head: Slice<'_, f32>,
        clustered: Option<&ClusteredUse>,
        targets: &Targets,
        _: Follows,
    ) -> Result<(Losses, Kept<Gpu>), EdkmError> {
        let gpu = gpu(self).map_err(error_of_op)?;
        let effective = Effective::of(&gpu, dims, head, clustered)?;
        let projection = Projection {
            x,
            w: effective.as_slice(),
        };
        cross_entropy::forward(&*gpu, projection, on_device(targets)).map_err(error_of_op)
    }

    fn cross_entropy_backward(
        &self,
        dims: LinearDims,
        saved: CrossEntropySaved<'_, Self>,
        kept: Kept<Gpu>,
        grad_loss: &Buffer,
        grad_x: &mut Buffer,
        grad_head: &mut Buffer,
    ) -> Result<(), EdkmError> {
        let gpu = &*Gpu::of_memory(grad_loss).map_err(error_of_op)?;
        let targets = on_device(saved.targets);
        let (grad_loss, grad_x) = ((&**grad_loss).into(), (&mut **grad_x).into());
        let grad_head = (&mut **grad_head).into();
        with_gradient(gpu, dims, saved.head, saved.clustered, grad_head, |w, grad_head| {
            let projection = Projection { x: saved.x, w };
            cross_entropy::backward(
                gpu,
                projection,
                targets,
                kept,
                grad_loss,
                saved.scale,
                grad_x,
                grad_head,
            )
        })
    }
}

fn on_device(targets: &Targets) -> cross_entropy::Targets<'_> {
    cross_entropy::Targets {
        ids: &targets.ids,
        weights: &targets.weights,
    }
}
