use dfdx::prelude::*;
use edkm_cuda::adamw::sum_of_squares;
use edkm_cuda::driver::Gpu;
use edkm_cuda::{elementwise, Slice};

use super::{Difference, HiddenDistanceKernel};
use crate::device::cuda::{error_of_device, gpu, Buffer, Fresh};

impl HiddenDistanceKernel for Cuda {
    fn difference(&self, x: Slice<'_, f32>, y: Slice<'_, f32>) -> Result<Difference<Self>, CudaError> {
        let gpu = gpu(self).map_err(error_of_device)?;
        let mut difference = Fresh::zeroed(self, x.len())?;
        let mut numbers = difference.slice_mut();
        elementwise::subtract(&*gpu, x, y, numbers.reborrow()).map_err(error_of_device)?;
        let squares = sum_of_squares(&*gpu, numbers.as_slice()).map_err(error_of_device)?;
        Ok(Difference {
            difference,
            squares,
            squares_of_second: sum_of_squares(&*gpu, y).map_err(error_of_device)?,
        })
    }

    fn hidden_distance_backward(
        &self,
        difference: Slice<'_, f32>,
        factor: f32,
        grad_distance: &Buffer,
        grad: &mut Buffer,
    ) -> Result<(), CudaError> {
        let gpu = Gpu::of_memory(grad_distance).map_err(error_of_device)?;
        let (grad, grad_distance) = ((&mut **grad).into(), (&**grad_distance).into());
        elementwise::add_times(&*gpu, grad, difference, factor, grad_distance).map_err(error_of_device)
    }
}
