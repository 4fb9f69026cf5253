use dfdx::prelude::*;
use edkm_kernels::elementwise::add_assign;

use super::AddKernel;

type Buffer = <Cpu as Storage<f32>>::Vec;

impl AddKernel for Cpu {
    fn add_forward(&self, x: &[f32], y: &[f32]) -> Result<Buffer, CpuError> {
        let mut sum = self.try_alloc_len(x.len())?;
        sum.copy_from_slice(x);
        add_assign(&mut sum, y);
        Ok(sum)
    }

    fn add_backward(&self, grad_out: &Buffer, grad: &mut Buffer) -> Result<(), CpuError> {
        add_assign(grad, grad_out);
        Ok(())
    }

    fn negative_zeros(&self, len: usize) -> Result<Buffer, CpuError> {
        let mut numbers = self.try_alloc_len(len)?;
        numbers.fill(-0.0);
        Ok(numbers)
    }
}
