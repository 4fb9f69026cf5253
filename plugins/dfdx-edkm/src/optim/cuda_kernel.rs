use dfdx::prelude::*;
use edkm_cuda::driver::Gpu;
use edkm_cuda::{adamw, Slice, SliceMut};
use edkm_kernels::adamw::Hyper;

use super::AdamWKernel;
use crate::device::cuda::{error_of_device, view_mut, Buffer};

impl AdamWKernel for Cuda {
    fn adamw_update<S: Shape>(
        &self,
        parameter: &mut Tensor<S, f32, Self>,
        gradient: &Buffer,
        first_moment: &mut Buffer,
        second_moment: &mut Buffer,
        hyper: &Hyper,
    ) -> Result<(), CudaError> {
        let gpu = Gpu::of_memory(gradient).map_err(error_of_device)?;
        let (gradient, first): (Slice<'_, f32>, SliceMut<'_, f32>) =
            ((&**gradient).into(), (&mut **first_moment).into());
        let second: SliceMut<'_, f32> = (&mut **second_moment).into();
        let len = parameter.shape().num_elements();
        if [gradient.len(), first.len(), second.len()].iter().any(|&l| l != len) {
            return Err(CudaError::Cpu(CpuError::WrongNumElements));
        }
        adamw::update(&*gpu, view_mut(parameter)?, gradient, first, second, hyper).map_err(error_of_device)
    }

    fn sum_of_squares(&self, gradient: &Buffer) -> Result<f64, CudaError> {
        let gpu = Gpu::of_memory(gradient).map_err(error_of_device)?;
        adamw::sum_of_squares(&*gpu, (&**gradient).into()).map_err(error_of_device)
    }

    fn buffer_to_vec(&self, buffer: &Buffer) -> Result<Vec<f32>, CudaError> {
        let gpu = Gpu::of_memory(buffer).map_err(error_of_device)?;
        Slice::from(&**buffer).to_host(&*gpu).map_err(error_of_device)
    }

    fn buffer_from_vec(&self, numbers: Vec<f32>) -> Result<Buffer, CudaError> {
        let mut buffer = Storage::<f32>::try_alloc_len(self, numbers.len())?;
        let gpu = Gpu::of_memory(&buffer).map_err(error_of_device)?;
        SliceMut::from(&mut *buffer)
            .write(&*gpu, &numbers)
            .map_err(error_of_device)?;
        Ok(buffer)
    }
}
