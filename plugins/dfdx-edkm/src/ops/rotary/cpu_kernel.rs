use dfdx::prelude::*;
use edkm_kernels::elementwise::add_assign;
use edkm_kernels::rotary::{self, Direction};

use super::{RotaryDims, RotaryKernel};

type Buffer = <Cpu as Storage<f32>>::Vec;

impl RotaryKernel for Cpu {
    fn rotary_forward(&self, dims: &RotaryDims, x: &[f32]) -> Result<Buffer, CpuError> {
        let mut y = self.try_alloc_len(x.len())?;
        y.copy_from_slice(x);
        rotary::apply(&dims.table, &mut y, dims.heads, dims.seq, 0, Direction::Forward);
        Ok(y)
    }

    fn rotary_backward(&self, dims: &RotaryDims, grad_out: &mut Buffer, grad_x: &mut Buffer) -> Result<(), CpuError> {
        rotary::apply(&dims.table, grad_out, dims.heads, dims.seq, 0, Direction::Backward);
        add_assign(grad_x, grad_out);
        Ok(())
    }
}
