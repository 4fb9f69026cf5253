use dfdx::prelude::*;
use edkm_cuda::driver::Gpu;
use edkm_cuda::{swiglu, Slice};

use super::SwigluKernel;
use crate::device::cuda::{error_of_device, gpu, Buffer, Fresh};

impl SwigluKernel for Cuda {
    fn swiglu_forward(&self, gate: Slice<'_, f32>, up: Slice<'_, f32>) -> Result<Fresh, CudaError> {
        let gpu = gpu(self).map_err(error_of_device)?;
        let mut y = Fresh::zeroed(self, gate.len())?;
        swiglu::forward(&*gpu, gate, up, y.slice_mut()).map_err(error_of_device)?;
        Ok(y)
    }

    fn swiglu_backward(
        &self,
        gate: Slice<'_, f32>,
        up: Slice<'_, f32>,
        grad_out: &Buffer,
        grad_gate: &mut Buffer,
        grad_up: &mut Buffer,
    ) -> Result<(), CudaError> {
        let gpu = Gpu::of_memory(grad_out).map_err(error_of_device)?;
        let (grad_gate, grad_up) = ((&mut **grad_gate).into(), (&mut **grad_up).into());
        swiglu::backward(&*gpu, gate, up, (&**grad_out).into(), grad_gate, grad_up).map_err(error_of_device)
    }
}
