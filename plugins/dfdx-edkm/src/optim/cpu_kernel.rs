use dfdx::prelude::*;
use edkm_kernels::adamw::{self, eight_bit, Hyper};

use super::{moments_fit, AdamWKernel, DeviceMoments, Moments};
use crate::device::memory_mut;

type Buffer = <Cpu as Storage<f32>>::Vec;
type Bytes = <Cpu as Storage<u8>>::Vec;

impl AdamWKernel for Cpu {
    fn adamw_update<S: Shape>(
        &self,
        parameter: &mut Tensor<S, f32, Self>,
        gradient: &Buffer,
        moments: &mut DeviceMoments<Self>,
        hyper: &Hyper,
    ) -> Result<(), CpuError> {
        let parameter = memory_mut(parameter);
        let len = parameter.len();
        if gradient.len() != len || !moments_fit(self, moments, len) {
            return Err(CpuError::WrongNumElements);
        }
        match moments {
            Moments::F32 { first, second } => adamw::update(parameter, gradient, first, second, hyper),
            Moments::EightBit { first, second, scales } => {
                eight_bit::update(parameter, gradient, eight_bit::Moments { first, second, scales }, hyper);
            }
        }
        Ok(())
    }

    fn sum_of_squares(&self, gradient: &Buffer) -> Result<f64, CpuError> {
        Ok(adamw::sum_of_squares(gradient))
    }

    fn buffer_to_vec(&self, buffer: &Buffer) -> Result<Vec<f32>, CpuError> {
        Ok(buffer.to_vec())
    }

    fn buffer_into_vec(&self, mut buffer: Buffer) -> Result<Vec<f32>, CpuError> {
        Ok(std::mem::take(&mut *buffer))
    }

    fn buffer_from_vec(&self, numbers: Vec<f32>) -> Result<Buffer, CpuError> {
        let mut buffer = Storage::<f32>::try_alloc_len(self, 0)?;
        *buffer = numbers;
        Ok(buffer)
    }

    fn bytes_to_vec(&self, buffer: &Bytes) -> Result<Vec<u8>, CpuError> {
        Ok(buffer.to_vec())
    }

    fn bytes_from_vec(&self, bytes: Vec<u8>) -> Result<Bytes, CpuError> {
        let mut buffer = Storage::<u8>::try_alloc_len(self, 0)?;
        *buffer = bytes;
        Ok(buffer)
    }
}
