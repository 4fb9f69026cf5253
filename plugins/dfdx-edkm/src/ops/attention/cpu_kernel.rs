use dfdx::prelude::*;
use edkm_kernels::attention;

use super::{AttentionDims, AttentionKernel, AttentionSaved};

type Buffer = <Cpu as Storage<f32>>::Vec;

impl AttentionKernel for Cpu {
    fn attention_forward(
        &self,
        dims: &AttentionDims,
        q: &[f32],
        k: &[f32],
        v: &[f32],
    ) -> Result<(Buffer, Buffer), CpuError> {
        let mut out = self.try_alloc_len(q.len())?;
        let mut lse = self.try_alloc_len(dims.batch * dims.heads * dims.seq)?;
        attention::forward(dims, q, k, v, &mut out, &mut lse);
        Ok((out, lse))
    }

    fn attention_backward(
        &self,
        dims: &AttentionDims,
        saved: AttentionSaved<&[f32]>,
        grad_out: &Buffer,
        [grad_q, grad_k, grad_v]: [&mut Buffer; 3],
    ) -> Result<(), CpuError> {
        let AttentionSaved { q, k, v, out, lse } = saved;
        attention::backward(dims, q, k, v, out, lse, grad_out, grad_q, grad_k, grad_v);
        Ok(())
    }
}
