use std::sync::Arc;

use dfdx::prelude::*;
use edkm_cuda::driver::{Gpu, GpuError};
use edkm_cuda::rotary::{self, Angles};
use edkm_cuda::Slice;
use edkm_kernels::rotary::Table;

use super::{RotaryDims, RotaryKernel};
use crate::device::cuda::uploaded::Uploads;
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

/// All layers of a model share one table.
static ANGLES: Uploads<Table, Angles<Gpu>> = Uploads::new();

/// The angles of the first positions.
fn angles(gpu: &Arc<Gpu>, dims: &RotaryDims) -> Result<Arc<Angles<Gpu>>, GpuError> {
    ANGLES.get(gpu, &dims.table, dims.seq, || {
        Angles::new(&**gpu, &dims.table, dims.seq)
    })
}
