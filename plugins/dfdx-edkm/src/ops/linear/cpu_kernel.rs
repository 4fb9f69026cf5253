//! The linear layer on the CPU: matrix products on slices, W~ in a scratch buffer.

use dfdx::prelude::*;
use edkm_cluster::{ClusterError, MatrixShape};
use edkm_kernels::matmul::{self, Accumulate};

use super::{ClusteredUse, LinearDims, LinearGradients, LinearKernel};
use crate::ops::scratch::with_scratch;
use crate::{Clustering, EdkmError};

impl LinearKernel for Cpu {
    fn cluster(
        &self,
        op: &str,
        weight: &[f32],
        shape: MatrixShape,
        clustering: &Clustering,
    ) -> Result<ClusteredUse, EdkmError> {
        clustering
            .cluster(weight, shape)
            .map_err(|source| EdkmError::Cluster { op: op.into(), source })
    }

    fn linear_forward(
        &self,
        dims: LinearDims,
        x: &[f32],
        weight: &[f32],
        clustered: Option<&ClusteredUse>,
        bias: Option<&[f32]>,
    ) -> Result<<Self as Storage<f32>>::Vec, EdkmError> {
        let LinearDims {
            tokens,
            inputs,
            outputs,
        } = dims;
        let mut y = self.try_alloc_len(tokens * outputs).map_err(device_error)?;
        with_effective(dims, weight, clustered, |effective| {
            matmul::nt(tokens, outputs, inputs, x, effective, &mut y, Accumulate::Overwrite);
        })?;
        if let Some(bias) = bias {
            for row in y.chunks_exact_mut(outputs.max(1)) {
                edkm_kernels::elementwise::add_assign(row, bias);
            }
        }
        Ok(y)
    }

    fn linear_backward(
        &self,
        dims: LinearDims,
        x: &[f32],
        weight: &[f32],
        clustered: Option<&ClusteredUse>,
        grad_out: &<Self as Storage<f32>>::Vec,
        grads: LinearGradients<'_, <Self as Storage<f32>>::Vec>,
    ) -> Result<(), EdkmError> {
        let LinearDims {
            tokens,
            inputs,
            outputs,
        } = dims;
        with_effective(dims, weight, clustered, |effective| {
            matmul::nn(tokens, inputs, outputs, grad_out, effective, grads.x, Accumulate::Add);
        })?;
        match clustered {
            None => matmul::tn(outputs, inputs, tokens, grad_out, x, grads.weight, Accumulate::Add),
            Some(clustered) => with_scratch(outputs * inputs, |grad_clustered| {
                matmul::tn(
                    outputs,
                    inputs,
                    tokens,
                    grad_out,
                    x,
                    grad_clustered,
                    Accumulate::Overwrite,
                );
                clustered.backward_accumulate(weight, dims.weight_shape(), grad_clustered, grads.weight)
            })
            .map_err(cluster_error)?,
        }
        if let Some(grad_bias) = grads.bias {
            for row in grad_out.chunks_exact(outputs.max(1)) {
                edkm_kernels::elementwise::add_assign(grad_bias, row);
            }
        }
        Ok(())
    }
}

/// Runs `f` on W~, made in a scratch buffer, or on the weight itself where there is no clustering.
pub(crate) fn with_effective<R>(
    dims: LinearDims,
    weight: &[f32],
    clustered: Option<&ClusteredUse>,
    f: impl FnOnce(&[f32]) -> R,
) -> Result<R, EdkmError> {
    match clustered {
        None => Ok(f(weight)),
        Some(clustered) => with_scratch(weight.len(), |effective| {
            clustered
                .clustered_into(weight, dims.weight_shape(), effective)
                .map_err(cluster_error)?;
            Ok(f(effective))
        }),
    }
}

pub(crate) fn cluster_error(source: ClusterError) -> EdkmError {
    EdkmError::Cluster {
        op: "linear".into(),
        source,
    }
}

pub(crate) fn device_error(error: CpuError) -> EdkmError {
    EdkmError::Device(error.to_string())
}

/// Runs `f` on the weight that multiplies and on its gradient, to be added to, and takes that to the weight itself.
pub(crate) fn with_gradient(
    dims: LinearDims,
    weight: &[f32],
    clustered: Option<&ClusteredUse>,
    grad_weight: &mut [f32],
    f: impl FnOnce(&[f32], &mut [f32]),
) -> Result<(), EdkmError> {
    let Some(clustered_use) = clustered else {
        f(weight, grad_weight);
        return Ok(());
    };
    with_scratch(weight.len(), |grad_clustered| {
        grad_clustered.fill(0.0);
        with_effective(dims, weight, clustered, |effective| f(effective, grad_clustered))?;
        clustered_use
            .backward_accumulate(weight, dims.weight_shape(), grad_clustered, grad_weight)
            .map_err(cluster_error)
    })
}
