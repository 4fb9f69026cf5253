use dfdx::prelude::*;
use edkm_kernels::cross_entropy::Losses;
use edkm_kernels::distillation::{self, LogSumExp, Projection};

use super::{DistillationKernel, DistillationViews};
use crate::ops::linear::{cluster_error, with_effective, LinearDims};
use crate::ops::scratch::with_scratch;
use crate::EdkmError;

type Buffer = <Cpu as Storage<f32>>::Vec;

impl DistillationKernel for Cpu {
    fn distillation_forward(
        &self,
        dims: LinearDims,
        views: DistillationViews<'_, Self>,
    ) -> Result<(Losses, LogSumExp), EdkmError> {
        let teacher = Projection {
            x: views.teacher_x,
            w: views.teacher_head,
        };
        with_effective(dims, views.head, views.clustered, |w| {
            distillation::forward(Projection { x: views.x, w }, teacher, views.lesson)
        })
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
        let DistillationViews {
            x,
            head,
            clustered,
            teacher_x,
            teacher_head,
            lesson,
        } = views;
        let teacher = Projection {
            x: teacher_x,
            w: teacher_head,
        };
        let scale = scale * grad_loss[0];
        let Some(clustered_use) = clustered else {
            let student = Projection { x, w: head };
            distillation::backward(student, teacher, lesson, lse, scale, grad_x, grad_head);
            return Ok(());
        };
        with_scratch(head.len(), |grad_clustered| {
            grad_clustered.fill(0.0);
            with_effective(dims, head, clustered, |w| {
                let student = Projection { x, w };
                distillation::backward(student, teacher, lesson, lse, scale, grad_x, grad_clustered);
            })?;
            clustered_use
                .backward_accumulate(head, dims.weight_shape(), grad_clustered, grad_head)
                .map_err(cluster_error)
        })
    }
}
