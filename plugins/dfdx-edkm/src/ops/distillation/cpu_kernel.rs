use dfdx::prelude::*;
use edkm_kernels::distillation::{self, Kept, Projection, Settled, Sums};

use super::{DistillationKernel, DistillationViews};
use crate::ops::linear::{with_effective, with_gradient, LinearDims};
use crate::EdkmError;

type Buffer = <Cpu as Storage<f32>>::Vec;

impl DistillationKernel for Cpu {
    type DistillationKept = Kept;

    fn distillation_forward(
        &self,
        dims: LinearDims,
        views: DistillationViews<'_, Self>,
        settled: Option<Settled<'_>>,
    ) -> Result<(Sums, Kept), EdkmError> {
        let teacher = Projection {
            x: views.teacher_x,
            w: views.teacher_head,
        };
        with_effective(dims, views.head, views.clustered, |w| {
            let student = Projection { x: views.x, w };
            match settled {
                Some(settled) => distillation::forward_ahead(student, teacher, views.lesson, settled),
                None => distillation::forward(student, teacher, views.lesson),
            }
        })
    }

    fn distillation_backward(
        &self,
        dims: LinearDims,
        views: DistillationViews<'_, Self>,
        kept: Kept,
        scale: f32,
        grad_loss: &Buffer,
        grad_x: &mut Buffer,
        grad_head: &mut Buffer,
    ) -> Result<(), EdkmError> {
        let teacher = Projection {
            x: views.teacher_x,
            w: views.teacher_head,
        };
        let scale = scale * grad_loss[0];
        with_gradient(dims, views.head, views.clustered, grad_head, |w, grad_head| {
            let student = Projection { x: views.x, w };
            distillation::backward(student, teacher, views.lesson, kept, scale, grad_x, grad_head);
        })
    }
}
