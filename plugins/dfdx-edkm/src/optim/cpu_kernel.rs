use dfdx::prelude::*;
use edkm_kernels::adamw::{self, Hyper};

use super::AdamWKernel;
use crate::device::view_mut;

type Buffer = <Cpu as Storage<f32>>::Vec;

impl AdamWKernel for Cpu {
    fn adamw_update<S: Shape>(
        &self,
        parameter: &mut Tensor<S, f32, Self>,
        gradient: &Buffer,
        first_moment: &mut Buffer,
        second_moment: &mut Buffer,
        hyper: &Hyper,
    ) -> Result<(), CpuError> {
        let parameter = view_mut(parameter);
        let len = parameter.len();
        if [gradient.len(), first_moment.len(), second_moment.len()]
            .iter()
            .any(|&l| l != len)
        {
            return Err(CpuError::WrongNumElements);
        }
        adamw::update(parameter, gradient, first_moment, second_moment, hyper);
        Ok(())
    }

    fn sum_of_squares(&self, gradient: &Buffer) -> Result<f64, CpuError> {
        Ok(adamw::sum_of_squares(gradient))
    }

    fn buffer_to_vec(&self, buffer: &Buffer) -> Result<Vec<f32>, CpuError> {
        Ok(buffer.to_vec())
    }

    fn buffer_from_vec(&self, numbers: Vec<f32>) -> Result<Buffer, CpuError> {
        let mut buffer = self.try_alloc_len(0)?;
        *buffer = numbers;
        Ok(buffer)
    }
}
