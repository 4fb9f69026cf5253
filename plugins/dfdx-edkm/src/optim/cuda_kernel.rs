use dfdx::prelude::*;
use edkm_cuda::driver::Gpu;
use edkm_cuda::{adamw, Slice, SliceMut};
use edkm_kernels::adamw::Hyper;

use super::{moments_fit, AdamWKernel, DeviceMoments, Moments};
use crate::device::cuda::{error_of_device, view_mut, Buffer};

type Bytes = <Cuda as Storage<u8>>::Vec;

impl AdamWKernel for Cuda {
    fn adamw_update<S: Shape>(
        &self,
        parameter: &mut Tensor<S, f32, Self>,
        gradient: &Buffer,
        moments: &mut DeviceMoments<Self>,
        hyper: &Hyper,
    ) -> Result<(), CudaError> {
        let gpu = Gpu::of_memory(gradient).map_err(error_of_device)?;
        let gradient: Slice<'_, f32> = (&**gradient).into();
        let len = parameter.shape().num_elements();
        if gradient.len() != len || !moments_fit(self, moments, len) {
            return Err(CudaError::Cpu(CpuError::WrongNumElements));
        }
        match moments {
            Moments::F32 { first, second } => {
                let (first, second) = ((&mut **first).into(), (&mut **second).into());
                adamw::update(&*gpu, view_mut(parameter)?, gradient, first, second, hyper)
            }
            Moments::EightBit { first, second, scales } => {
                let moments = adamw::EightBitMoments {
                    first: (&mut **first).into(),
                    second: (&mut **second).into(),
                    scales: (&mut **scales).into(),
                };
                adamw::update_eight_bit(&*gpu, view_mut(parameter)?, gradient, moments, hyper)
            }
        }
        .map_err(error_of_device)
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

    fn bytes_to_vec(&self, buffer: &Bytes) -> Result<Vec<u8>, CudaError> {
        let gpu = Gpu::of_memory(buffer).map_err(error_of_device)?;
        Slice::from(&**buffer).to_host(&*gpu).map_err(error_of_device)
    }

    fn bytes_from_vec(&self, bytes: Vec<u8>) -> Result<Bytes, CudaError> {
        let mut buffer = Storage::<u8>::try_alloc_len(self, bytes.len())?;
        let gpu = Gpu::of_memory(&buffer).map_err(error_of_device)?;
        SliceMut::from(&mut *buffer)
            .write(&*gpu, &bytes)
            .map_err(error_of_device)?;
        Ok(buffer)
    }
}
