use std::sync::Arc;

use dfdx::prelude::*;
use edkm_cuda::attention::{self, Inputs, Outputs, MOST_HEAD_DIM};
use edkm_cuda::driver::{Gpu, GpuError};
use edkm_cuda::{Array, Slice};

use super::{AttentionDims, AttentionKernel, AttentionSaved, Segments};
use crate::device::cuda::uploaded::Uploads;
use crate::device::cuda::{error_of_device, gpu, Buffer, Fresh};
use crate::EdkmError;

impl AttentionKernel for Cuda {
    fn attention_refusal(&self, dims: &AttentionDims) -> Option<EdkmError> {
        (dims.head_dim > MOST_HEAD_DIM).then(|| EdkmError::Shape {
            op: "attention",
            expected: format!("heads of at most {MOST_HEAD_DIM} numbers on a GPU; the CPU has no such limit"),
            got: format!("heads of {}", dims.head_dim),
        })
    }

    fn attention_forward(
        &self,
        dims: &AttentionDims,
        segments: Option<&Segments>,
        q: Slice<'_, f32>,
        k: Slice<'_, f32>,
        v: Slice<'_, f32>,
    ) -> Result<(Fresh, Fresh), CudaError> {
        let gpu = gpu(self).map_err(error_of_device)?;
        let mut out = Fresh::zeroed(self, dims.query_len())?;
        let mut lse = Fresh::zeroed(self, dims.lse_len())?;
        let first_seen = first_seen(&gpu, segments).map_err(error_of_device)?;
        let inputs = Inputs {
            q,
            k,
            v,
            first_seen: first_seen.as_deref().map(Array::as_slice),
        };
        attention::forward(&*gpu, dims, inputs, out.slice_mut(), lse.slice_mut()).map_err(error_of_device)?;
        Ok((out, lse))
    }

    fn attention_backward(
        &self,
        dims: &AttentionDims,
        segments: Option<&Segments>,
        saved: AttentionSaved<Slice<'_, f32>>,
        grad_out: &Buffer,
        [grad_q, grad_k, grad_v]: [&mut Buffer; 3],
    ) -> Result<(), CudaError> {
        let gpu = Gpu::of_memory(grad_out).map_err(error_of_device)?;
        let AttentionSaved { q, k, v, out, lse } = saved;
        let first_seen = first_seen(&gpu, segments).map_err(error_of_device)?;
        let inputs = Inputs {
            q,
            k,
            v,
            first_seen: first_seen.as_deref().map(Array::as_slice),
        };
        let grads = [(&mut **grad_q).into(), (&mut **grad_k).into(), (&mut **grad_v).into()];
        attention::backward(&*gpu, dims, inputs, Outputs { out, lse }, (&**grad_out).into(), grads)
            .map_err(error_of_device)
    }
}

/// What each position sees first, which all layers and passes of a batch read.
static FIRST_SEEN: Uploads<[u32], Array<Gpu, u32>> = Uploads::new();

fn first_seen(gpu: &Arc<Gpu>, segments: Option<&Segments>) -> Result<Option<Arc<Array<Gpu, u32>>>, GpuError> {
    let upload = |segments: &Segments| {
        FIRST_SEEN.get(gpu, segments.lengths(), segments.seq(), || {
            Array::from_host(&**gpu, &segments.first_seen())
        })
    };
    segments.map(upload).transpose()
}
