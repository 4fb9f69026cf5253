//! One use of a clustered weight, from forward to backward.

use std::any::Any;
use std::sync::Arc;

use edkm_cluster::{ClusterError, KeepZero, MatrixShape, Spec, Trajectory};

use crate::channel_scale::{divide_rows, multiply_rows};
use crate::clustering::{has_collapsed, some_have_collapsed};
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

    /// Whether some palette has collapsed, as of a weight of one value or two. All weights of a value have one gradient there, the mean of theirs, which would
    /// keep them alike for ever; but there are clusters for those that move away. So there the gradient passes unchanged.
    pub(crate) fn has_clusters_to_spare(&self) -> bool {
        some_have_collapsed(self.trajectory.start())
    }

    /// [`Self::backward_accumulate`] where some palettes have clusters to spare. Memory: twice the size of the weight.
    fn pass_by_palette(
        &self,
        weight: &[f32],
        shape: MatrixShape,
        grad_clustered: &mut [f32],
        grad_weight: &mut [f32],
    ) -> Result<(), ClusterError> {
        let grouping = self.spec.grouping;
        let keeps_zero = self.spec.keep_zero == KeepZero::Exact;
        let start = self.trajectory.start();
        let mut unchanged = grad_clustered.to_vec();
        let spare = (0..start.groups()).filter(|&palette| has_collapsed(start, palette));
        let spare: Vec<_> = spare.map(|palette| grouping.weights_of(shape, palette)).collect();
        for range in &spare {
            let vectors = weight[range.clone()].chunks(self.spec.dim());
            for (vector, grad) in vectors.zip(unchanged[range.clone()].chunks_mut(self.spec.dim())) {
                if keeps_zero && vector.iter().all(|&w| w == 0.0) {
                    grad.fill(0.0);
                }
            }
        }
        // the others' as ever, into a gradient of their own
        let mut others = vec![0.0; weight.len()];
        self.through_repetitions(weight, shape, grad_clustered, &mut others)?;
        for range in spare {
            others[range.clone()].copy_from_slice(&unchanged[range]);
        }
        edkm_kernels::elementwise::add_assign(grad_weight, &others);
        Ok(())
    }

    /// Adds dL/dW to `grad_weight`, given dL/dW~, which is spoilt.
    pub(crate) fn backward_accumulate(
        &self,
        weight: &[f32],
        shape: MatrixShape,
        grad_clustered: &mut [f32],
        grad_weight: &mut [f32],
    ) -> Result<(), ClusterError> {
        let _span = tracing::trace_span!("cluster backward", rows = shape.rows, cols = shape.cols).entered();
        match self.has_clusters_to_spare() {
            true => self.pass_by_palette(weight, shape, grad_clustered, grad_weight),
            false => self.through_repetitions(weight, shape, grad_clustered, grad_weight),
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
        // W~ = s V~(W / s)
        multiply_rows(grad_clustered, scales);
        with_scaled(weight, scales, |scaled| {
            trajectory.backward(scaled, shape, spec, grad_clustered)
        })?;
        divide_rows(grad_clustered, scales);
        edkm_kernels::elementwise::add_assign(grad_weight, grad_clustered);
        Ok(())
    }
}

/// Runs `f` on the weight with its rows divided, in a buffer of the weight's size.
fn with_scaled<R>(weight: &[f32], scales: &[f32], f: impl FnOnce(&[f32]) -> R) -> R {
    with_scratch(weight.len(), |scaled| {
        scaled.copy_from_slice(weight);
        divide_rows(scaled, scales);
        f(scaled)
    })
}
