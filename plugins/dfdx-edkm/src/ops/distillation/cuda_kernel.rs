use dfdx::prelude::*;
use edkm_cuda::cross_entropy::Projection;
use edkm_cuda::distillation::{self, Comparison};
use edkm_cuda::driver::Gpu;
use edkm_cuda::{Array, Slice};
use edkm_kernels::cross_entropy::Losses;
use edkm_kernels::distillation::{Lesson, LogSumExp};

use super::{DistillationKernel, DistillationViews};
use crate::device::cuda::{error_of_op, gpu, Buffer};
use crate::ops::linear::cuda_clustered::{backward_accumulate, Effective};
use crate::ops::linear::LinearDims;
use crate::EdkmError;

impl DistillationKernel for Cuda {
    fn distillation_forward(
        &self,
        dims: LinearDims,
        views: DistillationViews<'_, Self>,
    ) -> Result<(Losses, LogSumExp), EdkmError> {
        let gpu = gpu(self).map_err(error_of_op)?;
        let effective = Effective::of(&gpu, dims, views.head, views.clustered)?;
        distillation::forward(&*gpu, comparison(Views::of(&views), &effective)).map_err(error_of_op)
    }

    fn distillation_backward(
        &self,
        dims: LinearDims,
        views: DistillationViews<'_, Self>,
        lse: &LogSumExp,
        scale: f32,
        grad_loss: &Buffer,
        grad_x: &mut Buffer,
        grad_head: &mut Buffer,
    ) -> Result<(), EdkmError> {
        let gpu = Gpu::of_memory(grad_loss).map_err(error_of_op)?;
        let effective = Effective::of(&gpu, dims, views.head, views.clustered)?;
        let comparison = comparison(Views::of(&views), &effective);
        let (grad_loss, grad_x) = ((&**grad_loss).into(), (&mut **grad_x).into());
        let grad_head = (&mut **grad_head).into();
        let Some(clustered) = views.clustered else {
            return distillation::backward(&*gpu, comparison, lse, grad_loss, scale, grad_x, grad_head)
                .map_err(error_of_op);
        };
        let mut upstream = Array::zeroed(&*gpu, views.head.len()).map_err(error_of_op)?;
        distillation::backward(&*gpu, comparison, lse, grad_loss, scale, grad_x, upstream.as_mut())
            .map_err(error_of_op)?;
        backward_accumulate(&gpu, dims, views.head, clustered, upstream.as_slice(), grad_head)
    }
}

/// What is compared, for any time that all of it lives (`DistillationViews` is for one time alone).
struct Views<'a> {
    x: Slice<'a, f32>,
    teacher: Projection<'a>,
    lesson: Lesson<'a>,
}

impl<'a> Views<'a> {
    fn of(views: &DistillationViews<'a, Cuda>) -> Self {
        Views {
            x: views.x,
            teacher: Projection {
                x: views.teacher_x,
                w: views.teacher_head,
            },
            lesson: views.lesson,
        }
    }
}

fn comparison<'a>(views: Views<'a>, effective: &'a Effective<'_>) -> Comparison<'a> {
    Comparison {
        student: Projection {
            x: views.x,
            w: effective.as_slice(),
        },
        teacher: views.teacher,
        lesson: views.lesson,
    }
}
