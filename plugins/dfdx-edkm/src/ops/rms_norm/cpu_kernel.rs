use dfdx::prelude::*;
use edkm_kernels::rms_norm;

use super::RmsNormKernel;

type Buffer = <Cpu as Storage<f32>>::Vec;

impl RmsNormKernel for Cpu {
    fn rms_norm_forward(&self, x: &[f32], weight: &[f32], eps: f32) -> Result<Buffer, CpuError> {
        let mut y = self.try_alloc_len(x.len())?;
        rms_norm::forward(x, weight, eps, &mut y);
        Ok(y)
    }

    fn rms_norm_backward(
        &self,
        x: &[f32],
        weight: &[f32],
        eps: f32,
        grad_out: &Buffer,
        grad_x: &mut Buffer,
        grad_weight: &mut Buffer,
    ) -> Result<(), CpuError> {
        rms_norm::backward(x, weight, eps, grad_out, grad_x, grad_weight);
        Ok(())
    }
}
