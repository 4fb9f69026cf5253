use dfdx::prelude::*;
use edkm_cluster::HalfKind;
use edkm_cuda::driver::Gpu;
use edkm_cuda::halves;
use edkm_cuda::Array;

use super::HalfKernel;
use crate::device::cuda::{error_of_device, gpu, half, Fresh};
use crate::device::DeviceMemory;

impl HalfKernel for Cuda {
    type Halves = Array<Gpu, u16>;

    fn round_to_half<S: Shape>(tensor: &Tensor<S, f32, Self>, kind: HalfKind) -> Result<Self::Halves, CudaError> {
        let gpu = gpu(tensor.device()).map_err(error_of_device)?;
        let numbers = Self::view(tensor);
        let mut rounded = Array::unset(&*gpu, numbers.len()).map_err(error_of_device)?;
        halves::round(&*gpu, numbers, half(kind), rounded.as_mut()).map_err(error_of_device)?;
        Ok(rounded)
    }

    fn widen_half<S: Shape>(
        &self,
        halves: &Self::Halves,
        kind: HalfKind,
        shape: S,
    ) -> Result<Tensor<S, f32, Self>, CudaError> {
        let gpu = gpu(self).map_err(error_of_device)?;
        let mut fresh = Fresh::zeroed(self, shape.num_elements())?;
        halves::widen(&*gpu, halves.as_slice(), half(kind), fresh.slice_mut()).map_err(error_of_device)?;
        self.tensor_from_buffer(fresh, shape)
    }
}
