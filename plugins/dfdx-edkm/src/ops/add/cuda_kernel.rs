use dfdx::prelude::*;
use edkm_cuda::driver::Gpu;
use edkm_cuda::{elementwise, Slice};

use super::AddKernel;
use crate::device::cuda::{error_of_device, gpu, Buffer, Fresh};

impl AddKernel for Cuda {
    fn add_forward(&self, x: Slice<'_, f32>, y: Slice<'_, f32>) -> Result<Fresh, CudaError> {
        let gpu = gpu(self).map_err(error_of_device)?;
        let mut sum = Fresh::zeroed(self, x.len())?;
        elementwise::add(&*gpu, x, y, sum.slice_mut()).map_err(error_of_device)?;
        Ok(sum)
    }

    fn add_backward(&self, grad_out: &Buffer, grad: &mut Buffer) -> Result<(), CudaError> {
        let gpu = Gpu::of_memory(grad_out).map_err(error_of_device)?;
        elementwise::add_assign(&*gpu, (&mut **grad).into(), (&**grad_out).into()).map_err(error_of_device)
    }

    fn negative_zeros(&self, len: usize) -> Result<Buffer, CudaError> {
        let mut numbers = Storage::<f32>::try_alloc_len(self, len)?;
        let gpu = Gpu::of_memory(&numbers).map_err(error_of_device)?;
        elementwise::scale(&*gpu, (&mut *numbers).into(), -1.0).map_err(error_of_device)?;
        Ok(numbers)
    }
}
