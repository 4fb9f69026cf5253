use dfdx::prelude::*;
use edkm_kernels::attention;

use super::{AttentionDims, AttentionKernel, AttentionSaved, Segments};

type Buffer = <Cpu as Storage<f32>>::Vec;

impl AttentionKernel for Cpu {
    fn attention_forward(
        &self,
        dims: &AttentionDims,
        segments: Option<&Segments>,
        q: &[f32],
        k: &[f32],
        v: &[f32],
    ) -> Result<(Buffer, Buffer), CpuError> {
        let mut out = self.try_alloc_len(q.len())?;
        let mut lse = self.try_alloc_len(dims.batch * dims.heads * dims.seq)?;
        match segments {
            None => attention::forward(dims, q, k, v, &mut out, &mut lse),
            Some(segments) => attention::forward_of_segments(dims, segments, q, k, v, &mut out, &mut lse),
        }
        Ok((out, lse))
    }

    fn attention_backward(
        &self,
        dims: &AttentionDims,
        segments: Option<&Segments>,
        saved: AttentionSaved<&[f32]>,
        grad_out: &Buffer,
        [grad_q, grad_k, grad_v]: [&mut Buffer; 3],
    ) -> Result<(), CpuError> {
        let AttentionSaved { q, k, v, out, lse } = saved;
        match segments {
            None => attention::backward(dims, q, k, v, out, lse, grad_out, grad_q, grad_k, grad_v),
            Some(segments) => {
                attention::backward_of_segments(dims, segments, q, k, v, out, lse, grad_out, grad_q, grad_k, grad_v)
            }
        }
        Ok(())
    }
}
