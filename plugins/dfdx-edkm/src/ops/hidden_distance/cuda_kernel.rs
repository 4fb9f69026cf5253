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

    fn add_times(&self, from: Slice<'_, f32>, factor: f32, times: &Buffer, to: &mut Buffer) -> Result<(), CudaError> {
        let gpu = Gpu::of_memory(times).map_err(error_of_device)?;
        elementwise::add_times(&*gpu, (&mut **to).into(), from, factor, (&**times).into()).map_err(error_of_device)
    }
}
