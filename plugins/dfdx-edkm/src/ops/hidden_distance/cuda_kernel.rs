use dfdx::prelude::*;
use edkm_cuda::driver::Gpu;
use edkm_cuda::{elementwise, hidden_distance, Slice};

use super::{Distance, HiddenDistanceKernel};
use crate::device::cuda::{error_of_device, gpu, Buffer, Fresh};

impl HiddenDistanceKernel for Cuda {
    fn distance(&self, x: Slice<'_, f32>, y: Slice<'_, f32>, width: usize) -> Result<Distance<Self>, CudaError> {
        let gpu = gpu(self).map_err(error_of_device)?;
        let mut half_gradient = Fresh::zeroed(self, x.len())?;
        let sum = hidden_distance::forward(&*gpu, x, y, width, half_gradient.slice_mut()).map_err(error_of_device)?;
        Ok(Distance { half_gradient, sum })
    }

    fn add_times(&self, from: Slice<'_, f32>, factor: f32, times: &Buffer, to: &mut Buffer) -> Result<(), CudaError> {
        let gpu = Gpu::of_memory(times).map_err(error_of_device)?;
        elementwise::add_times(&*gpu, (&mut **to).into(), from, factor, (&**times).into()).map_err(error_of_device)
    }
}
