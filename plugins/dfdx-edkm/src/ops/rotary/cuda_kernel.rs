use std::sync::{Arc, Mutex, PoisonError, Weak};

use dfdx::prelude::*;
use edkm_cuda::driver::{Gpu, GpuError};
use edkm_cuda::rotary::{self, Angles};
use edkm_cuda::Slice;
use edkm_kernels::rotary::Table;

use super::{RotaryDims, RotaryKernel};
use crate::device::cuda::{error_of_device, gpu, Buffer, Fresh};

impl RotaryKernel for Cuda {
    fn rotary_forward(&self, dims: &RotaryDims, x: Slice<'_, f32>) -> Result<Fresh, CudaError> {
        let gpu = gpu(self).map_err(error_of_device)?;
        let angles = angles(&gpu, dims).map_err(error_of_device)?;
        let mut y = Fresh::zeroed(self, x.len())?;
        rotary::forward(&*gpu, &angles, dims.heads, x, y.slice_mut()).map_err(error_of_device)?;
        Ok(y)
    }

    fn rotary_backward(&self, dims: &RotaryDims, grad_out: &mut Buffer, grad_x: &mut Buffer) -> Result<(), CudaError> {
        let gpu = Gpu::of_memory(grad_out).map_err(error_of_device)?;
        let angles = angles(&gpu, dims).map_err(error_of_device)?;
        rotary::backward(&*gpu, &angles, dims.heads, (&**grad_out).into(), (&mut **grad_x).into())
            .map_err(error_of_device)
    }
}

/// Angles on a GPU.
struct Uploaded {
    table: Weak<Table>,
    seq: usize,
    ordinal: usize,
    angles: Arc<Angles<Gpu>>,
}

/// Those of tables that are still in use: all layers of a model share one.
static UPLOADED: Mutex<Vec<Uploaded>> = Mutex::new(Vec::new());

/// The angles of the first positions, which go to the GPU once.
fn angles(gpu: &Arc<Gpu>, dims: &RotaryDims) -> Result<Arc<Angles<Gpu>>, GpuError> {
    let mut uploaded = UPLOADED.lock().unwrap_or_else(PoisonError::into_inner);
    uploaded.retain(|entry| entry.table.strong_count() > 0);
    let ordinal = gpu.device().ordinal();
    let known = uploaded.iter().find(|entry| {
        entry.ordinal == ordinal && entry.seq == dims.seq && std::ptr::eq(entry.table.as_ptr(), &*dims.table)
    });
    if let Some(entry) = known {
        return Ok(entry.angles.clone());
    }
    let angles = Arc::new(Angles::new(&**gpu, &dims.table, dims.seq)?);
    uploaded.push(Uploaded {
        table: Arc::downgrade(&dims.table),
        seq: dims.seq,
        ordinal,
        angles: angles.clone(),
    });
    Ok(angles)
}
