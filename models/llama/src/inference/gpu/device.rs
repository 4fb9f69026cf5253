//! A GPU, and what its failures mean to this crate.

use std::sync::Arc;

use edkm_cuda::driver::{Gpu, GpuError};

use super::super::InferenceProblem;
use crate::LlamaError;

/// An open GPU.
#[derive(Clone)]
pub(super) struct Device {
    gpu: Arc<Gpu>,
    ordinal: usize,
}

impl Device {
    pub(super) fn open(ordinal: usize) -> Result<Self, LlamaError> {
        match Gpu::of(ordinal) {
            Ok(gpu) => Ok(Self { gpu, ordinal }),
            Err(error) => Err(LlamaError::Device {
                name: format!("cuda:{ordinal}"),
                reason: error.to_string(),
            }),
        }
    }

    pub(super) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The error for what failed: `what` is what takes so many bytes.
    pub(super) fn error(&self, error: GpuError, what: impl Into<String>, bytes: usize) -> LlamaError {
        let (gpu, what) = (self.ordinal, what.into());
        if error.is_out_of_memory() {
            let free = self.gpu.free_bytes().unwrap_or(0);
            return LlamaError::Inference(InferenceProblem::GpuMemory {
                gpu,
                what,
                bytes: bytes as u64,
                free,
            });
        }
        LlamaError::Device {
            name: format!("{what} on cuda:{gpu}"),
            reason: error.to_string(),
        }
    }
}
