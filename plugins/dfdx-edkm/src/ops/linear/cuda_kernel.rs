//! The linear layer on a GPU: products by cuBLAS, W~ in memory of its own while it is needed.

use dfdx::prelude::*;
use edkm_cluster::MatrixShape;
use edkm_cuda::driver::Gpu;
use edkm_cuda::product::{self, Accumulate};
use edkm_cuda::{elementwise, Array, Slice};

use super::cuda_clustered::{self, Effective};
use super::{ClusteredUse, LinearDims, LinearGradients, LinearKernel};
use crate::device::cuda::{error_of_op, gpu, Buffer, Fresh};
use crate::{Clustering, EdkmError};

impl LinearKernel for Cuda {
    fn cluster(
        &self,
        op: &str,
        weight: Slice<'_, f32>,
        shape: MatrixShape,
        clustering: &Clustering,
    ) -> Result<ClusteredUse, EdkmError> {
        let gpu = gpu(self).map_err(error_of_op)?;
        cuda_clustered::cluster(&gpu, op, weight, shape, clustering)
    }

    fn linear_forward(
        &self,
        dims: LinearDims,
        x: Slice<'_, f32>,
        weight: Slice<'_, f32>,
        clustered: Option<&ClusteredUse>,
        bias: Option<Slice<'_, f32>>,
    ) -> Result<Fresh, EdkmError> {
        let LinearDims {
            tokens,
            inputs,
            outputs,
        } = dims;
        let gpu = gpu(self).map_err(error_of_op)?;
        let mut y = fresh(self, tokens * outputs)?;
        let effective = Effective::of(&gpu, dims, weight, clustered)?;
        let shape = [tokens, outputs, inputs];
        product::nt(
            &*gpu,
            shape,
            x,
            effective.as_slice(),
            y.slice_mut(),
            Accumulate::Overwrite,
        )
        .map_err(error_of_op)?;
        if let Some(bias) = bias {
            elementwise::add_to_rows(&*gpu, y.slice_mut(), bias).map_err(error_of_op)?;
        }
        Ok(y)
    }

    fn linear_backward(
        &self,
        dims: LinearDims,
        x: Slice<'_, f32>,
        weight: Slice<'_, f32>,
        clustered: Option<&ClusteredUse>,
        grad_out: &Buffer,
        grads: LinearGradients<'_, Buffer>,
    ) -> Result<(), EdkmError> {
        let LinearDims {
            tokens,
            inputs,
            outputs,
        } = dims;
        let gpu = Gpu::of_memory(grad_out).map_err(error_of_op)?;
        let grad_y: Slice<'_, f32> = (&**grad_out).into();
        let effective = Effective::of(&gpu, dims, weight, clustered)?;
        let shape = [tokens, inputs, outputs];
        let grad_x = (&mut **grads.x).into();
        product::nn(&*gpu, shape, grad_y, effective.as_slice(), grad_x, Accumulate::Add).map_err(error_of_op)?;
        // its memory is that of dL/dW~ next
        drop(effective);
        let shape = [outputs, inputs, tokens];
        let grad_weight = (&mut **grads.weight).into();
        match clustered {
            None => product::tn(&*gpu, shape, grad_y, x, grad_weight, Accumulate::Add).map_err(error_of_op)?,
            Some(clustered) => {
                let mut upstream = Array::unset(&*gpu, outputs * inputs).map_err(error_of_op)?;
                product::tn(&*gpu, shape, grad_y, x, upstream.as_mut(), Accumulate::Overwrite).map_err(error_of_op)?;
                cuda_clustered::backward_accumulate(&gpu, dims, weight, clustered, upstream.as_slice(), grad_weight)?;
            }
        }
        match grads.bias {
            Some(bias) => elementwise::add_sum_of_rows(&*gpu, grad_y, (&mut **bias).into()).map_err(error_of_op),
            None => Ok(()),
        }
    }
}

/// Memory for an output.
pub(crate) fn fresh(device: &Cuda, len: usize) -> Result<Fresh, EdkmError> {
    Fresh::zeroed(device, len).map_err(|error| EdkmError::Device(error.to_string()))
}
