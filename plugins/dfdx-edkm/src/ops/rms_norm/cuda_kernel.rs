use dfdx::prelude::*;
use edkm_cuda::driver::Gpu;
use edkm_cuda::{rms_norm, Slice};

use super::RmsNormKernel;
use crate::device::cuda::{error_of_device, gpu, Buffer, Fresh};

impl RmsNormKernel for Cuda {
    fn rms_norm_forward(&self, x: Slice<'_, f32>, weight: Slice<'_, f32>, eps: f32) -> Result<Fresh, CudaError> {
        let gpu = gpu(self).map_err(error_of_device)?;
        let mut y = Fresh::zeroed(self, x.len())?;
        rms_norm::forward(&*gpu, x, weight, eps, y.slice_mut()).map_err(error_of_device)?;
        Ok(y)
    }

    fn rms_norm_backward(
        &self,
        x: Slice<'_, f32>,
        weight: Slice<'_, f32>,
        eps: f32,
        grad_out: &Buffer,
        grad_x: &mut Buffer,
        grad_weight: &mut Buffer,
    ) -> Result<(), CudaError> {
        let gpu = Gpu::of_memory(grad_out).map_err(error_of_device)?;
        let (grad_x, grad_weight) = ((&mut **grad_x).into(), (&mut **grad_weight).into());
        rms_norm::backward(&*gpu, x, weight, eps, (&**grad_out).into(), grad_x, grad_weight).map_err(error_of_device)
    }
}
