use dfdx::prelude::*;
use edkm_cuda::cross_entropy::Projection;
use edkm_cuda::distillation::{self, Comparison, Kept};
use edkm_cuda::driver::Gpu;
use edkm_cuda::Slice;
use edkm_kernels::distillation::{Settled, Sums};

use super::{DistillationKernel, DistillationViews};
use crate::device::cuda::{error_of_op, gpu, Buffer};
use crate::ops::linear::cuda_clustered::{with_gradient, Effective};
use crate::ops::linear::LinearDims;
use crate::EdkmError;

impl DistillationKernel for Cuda {
    type DistillationKept = Kept<Gpu>;

    fn distillation_forward(
        &self,
        dims: LinearDims,
        views: DistillationViews<'_, Self>,
        _: Option<Settled<'_>>,
    ) -> Result<(Sums, Kept<Gpu>), EdkmError> {
        let gpu = &*gpu(self).map_err(error_of_op)?;
        let effective = Effective::of(gpu, dims, views.head, views.clustered)?;
        distillation::forward(gpu, comparison(&views, effective.as_slice())).map_err(error_of_op)
    }

    fn distillation_backward(
        &self,
        dims: LinearDims,
        views: DistillationViews<'_, Self>,
        kept: Kept<Gpu>,
        scale: f32,
        grad_loss: &Buffer,
        grad_x: &mut Buffer,
        grad_head: &mut Buffer,
    ) -> Result<(), EdkmError> {
        let gpu = &*Gpu::of_memory(grad_loss).map_err(error_of_op)?;
        let (grad_loss, grad_x) = ((&**grad_loss).into(), (&mut **grad_x).into());
        let grad_head = (&mut **grad_head).into();
        with_gradient(gpu, dims, views.head, views.clustered, grad_head, |w, grad_head| {
            distillation::backward(gpu, comparison(&views, w), kept, grad_loss, scale, grad_x, grad_head)
        })
    }
}

/// The student with the weight `w` that multiplies, and the teacher.
fn comparison<'a, 'v: 'a>(views: &DistillationViews<'v, Cuda>, w: Slice<'a, f32>) -> Comparison<'a> {
    Comparison {
        student: Projection { x: views.x, w },
        teacher: Projection {
            x: views.teacher_x,
            w: views.teacher_head,
        },
        lesson: views.lesson,
    }
}
