//! An optimizer whose state can be saved.

mod adamw;
mod collection;
mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

pub use adamw::{AdamW, AdamWConfig, AdamWState, Moments, StepError};
pub use collection::AdamWOptimizer;

use dfdx::prelude::*;
use edkm_kernels::adamw::Hyper;

use crate::device::DeviceMemory;

/// The device's part of the optimizer.
pub trait AdamWKernel: DeviceMemory {
    /// One update of one parameter, in place.
    fn adamw_update<S: Shape>(
        &self,
        parameter: &mut Tensor<S, f32, Self>,
        gradient: &<Self as Storage<f32>>::Vec,
        first_moment: &mut <Self as Storage<f32>>::Vec,
        second_moment: &mut <Self as Storage<f32>>::Vec,
        hyper: &Hyper,
    ) -> Result<(), Self::Err>;

    /// The sum of the squares of a gradient, in f64.
    fn sum_of_squares(&self, gradient: &<Self as Storage<f32>>::Vec) -> Result<f64, Self::Err>;

    /// A buffer's numbers on the host.
    fn buffer_to_vec(&self, buffer: &<Self as Storage<f32>>::Vec) -> Result<Vec<f32>, Self::Err>;

    /// A buffer from numbers on the host.
    fn buffer_from_vec(&self, numbers: Vec<f32>) -> Result<<Self as Storage<f32>>::Vec, Self::Err>;
}
