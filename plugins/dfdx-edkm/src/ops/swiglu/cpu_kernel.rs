use dfdx::prelude::*;
use edkm_kernels::swiglu;

use super::SwigluKernel;

type Buffer = <Cpu as Storage<f32>>::Vec;

impl SwigluKernel for Cpu {
    fn swiglu_forward(&self, gate: &[f32], up: &[f32]) -> Result<Buffer, CpuError> {
        let mut y = self.try_alloc_len(gate.len())?;
        swiglu::forward(gate, up, &mut y);
        Ok(y)
    }

    fn swiglu_backward(
        &self,
        gate: &[f32],
        up: &[f32],
        grad_out: &Buffer,
        grad_gate: &mut Buffer,
        grad_up: &mut Buffer,
    ) -> Result<(), CpuError> {
        swiglu::backward(gate, up, grad_out, grad_gate, grad_up);
        Ok(())
    }
}
