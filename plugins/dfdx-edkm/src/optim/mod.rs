//! An optimizer whose state can be saved.

mod adamw;
mod collection;
mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;
mod in_backward;
mod moments;

pub use adamw::{AdamW, AdamWConfig, AdamWState, StepError};
pub use collection::AdamWOptimizer;
pub use moments::{moments_fit, DeviceMoments, MomentFormat, Moments};

use dfdx::prelude::*;
use edkm_kernels::adamw::Hyper;

use crate::device::DeviceMemory;

/// The device's part of the optimizer.
pub trait AdamWKernel: DeviceMemory + Storage<u8> {
    /// One update of one parameter, in place.
    fn adamw_update<S: Shape>(
        &self,
        parameter: &mut Tensor<S, f32, Self>,
        gradient: &<Self as Storage<f32>>::Vec,
        moments: &mut DeviceMoments<Self>,
        hyper: &Hyper,
    ) -> Result<(), Self::Err>;

    /// The sum of the squares of a gradient, in f64.
    fn sum_of_squares(&self, gradient: &<Self as Storage<f32>>::Vec) -> Result<f64, Self::Err>;

    /// A buffer's numbers on the host.
    fn buffer_to_vec(&self, buffer: &<Self as Storage<f32>>::Vec) -> Result<Vec<f32>, Self::Err>;

    /// A buffer's numbers on the host, without a copy if the device's memory is the host's.
    fn buffer_into_vec(&self, buffer: <Self as Storage<f32>>::Vec) -> Result<Vec<f32>, Self::Err> {
        self.buffer_to_vec(&buffer)
    }

    /// A buffer from numbers on the host.
    fn buffer_from_vec(&self, numbers: Vec<f32>) -> Result<<Self as Storage<f32>>::Vec, Self::Err>;

    /// A buffer's bytes on the host.
    fn bytes_to_vec(&self, buffer: &<Self as Storage<u8>>::Vec) -> Result<Vec<u8>, Self::Err>;

    /// A buffer from bytes on the host.
    fn bytes_from_vec(&self, bytes: Vec<u8>) -> Result<<Self as Storage<u8>>::Vec, Self::Err>;
}
