//! One use of a clustered weight, from forward to backward.

use std::any::Any;
use std::sync::Arc;

use edkm_cluster::{ClusterError, KeepZero, MatrixShape, Spec, Trajectory};

use crate::channel_scale::{add_through_scales, divide_rows, divide_rows_into, multiply_rows, row_products};
use crate::clustering::start::has_collapsed;
use crate::ops::scratch::with_scratch;

/// What is kept of a clustering from forward to backward: the way of the centroids, from which W~ and its gradient follow.
#[derive(Debug, Clone)]
pub struct ClusteredUse {
    /// The centroids after each repetition.
    pub trajectory: Arc<Trajectory>,
    /// The settings of that moment.
    pub spec: Spec,
    /// What each row was divided by before it was clustered, if it was.
    pub row_scales: Option<Arc<[f32]>>,
    /// What the device of the weight keeps to have less to do, if it does.
    pub of_device: Option<Arc<dyn Any + Send + Sync>>,
}

impl ClusteredUse {
    /// Writes W~.
    pub(crate) fn clustered_into(
        &self,
        weight: &[f32],
        shape: MatrixShape,
        out: &mut [f32],
    ) -> Result<(), ClusterError> {
        let _span = tracing::trace_span!("clustered weight", rows = shape.rows, cols = shape.cols).entered();
        let Some(scales) = &self.row_scales else {
            return self.trajectory.clustered_into(weight, shape, &self.spec, out);
        };
        with_scaled(weight, scales, |scaled| {
            self.trajectory.clustered_into(scaled, shape, &self.spec, out)
        })?;
        multiply_rows(out, scales);
        Ok(())
    }

    /// Adds dL/dW to `grad_weight`, given dL/dW~, which is spoilt. Memory: the size of the palettes that have collapsed.
    ///
    /// Through those, as of a weight of one value or two, the gradient passes unchanged. All weights of a value would have one gradient there, the mean of
    /// theirs, which would keep them alike for ever; but there are clusters for those that move away.
    pub(crate) fn backward_accumulate(
        &self,
        weight: &[f32],
        shape: MatrixShape,
        grad_clustered: &mut [f32],
        grad_weight: &mut [f32],
    ) -> Result<(), ClusterError> {
        let _span = tracing::trace_span!("cluster backward", rows = shape.rows, cols = shape.cols).entered();
        let start = self.trajectory.start();
        let collapsed = (0..start.groups()).filter(|&palette| has_collapsed(start, palette));
        let unchanged: Vec<_> = collapsed
            .map(|palette| {
                let range = self.spec.grouping.weights_of(shape, palette);
                let mut total = grad_weight[range.clone()].to_vec();
                self.pass_unchanged(&weight[range.clone()], &grad_clustered[range.clone()], &mut total);
                (range, total)
            })
            .collect();
        self.through_repetitions(weight, shape, grad_clustered, grad_weight)?;
        for (range, total) in unchanged {
            grad_weight[range].copy_from_slice(&total);
        }
        Ok(())
    }

    /// Adds the gradient of a palette's clustered weights to that of its weights, but for zeros that stay zero.
    fn pass_unchanged(&self, weight: &[f32], grad_clustered: &[f32], total: &mut [f32]) {
        let (dim, keeps_zero) = (self.spec.dim(), self.spec.keep_zero == KeepZero::Exact);
        let vectors = weight.chunks(dim).zip(grad_clustered.chunks(dim));
        for ((vector, grad), total) in vectors.zip(total.chunks_mut(dim)) {
            if !(keeps_zero && vector.iter().all(|&w| w == 0.0)) {
                edkm_kernels::elementwise::add_assign(total, grad);
            }
        }
    }

    fn through_repetitions(
        &self,
        weight: &[f32],
        shape: MatrixShape,
        grad_clustered: &mut [f32],
        grad_weight: &mut [f32],
    ) -> Result<(), ClusterError> {
        let (trajectory, spec) = (&self.trajectory, &self.spec);
        let Some(scales) = &self.row_scales else {
            return trajectory.backward_accumulate(weight, shape, spec, grad_clustered, grad_weight);
        };
        // W~ = s V~(V), V = W / s
        with_scaled(weight, scales, |scaled| {
            let mut grad_scales = with_scratch(weight.len(), |clustered| {
                trajectory.clustered_into(scaled, shape, spec, clustered)?;
                Ok(row_products(grad_clustered, clustered, scales.len()))
            })?;
            multiply_rows(grad_clustered, scales);
            trajectory.backward(scaled, shape, spec, grad_clustered)?;
            // dL/ds = sum dL/dW~ V~ - sum dL/dV V / s
            let through_division = row_products(grad_clustered, scaled, scales.len());
            for ((grad, through), &scale) in grad_scales.iter_mut().zip(through_division).zip(&**scales) {
                *grad -= through / f64::from(scale);
            }
            divide_rows(grad_clustered, scales);
            add_through_scales(grad_clustered, scaled, &grad_scales);
            Ok(())
        })?;
        edkm_kernels::elementwise::add_assign(grad_weight, grad_clustered);
        Ok(())
    }
}

/// Runs `f` on the weight with its rows divided, in a buffer of the weight's size.
fn with_scaled<R>(weight: &[f32], scales: &[f32], f: impl FnOnce(&[f32]) -> R) -> R {
    with_scratch(weight.len(), |scaled| {
        divide_rows_into(weight, scales, scaled);
        f(scaled)
    })
}
