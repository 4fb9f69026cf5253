//! The GPU as the device of these tests, where the crate is built with the feature `driver`.

use edkm_cuda::driver::{Gpu, GpuError};
use edkm_cuda::product::Product;
use edkm_cuda::{Argument, Array, Runtime};
use std::sync::Arc;

use crate::Never;

/// The device of these tests.
pub(crate) struct Device(Arc<Gpu>);

/// GPU 0. Tests of this build need one: there is no skipping.
pub(crate) fn device() -> Option<Device> {
    Some(Device(Gpu::of(0).expect("a GPU")))
}

impl Device {
    /// Numbers in its memory.
    pub(crate) fn array<T: bytemuck::Pod>(&self, numbers: &[T]) -> Array<Self, T> {
        let Ok(array) = Array::from_host(self, numbers);
        array
    }
}

fn expect<T>(result: Result<T, GpuError>) -> Result<T, Never> {
    Ok(result.expect("the GPU failed"))
}

#[allow(unsafe_code)]
impl Runtime for Device {
    type Error = Never;
    type Memory = <Gpu as Runtime>::Memory;

    fn allocate(&self, bytes: usize) -> Result<Self::Memory, Self::Error> {
        expect(self.0.allocate(bytes))
    }

    fn allocate_unset(&self, bytes: usize) -> Result<Self::Memory, Self::Error> {
        expect(self.0.allocate_unset(bytes))
    }

    fn address(memory: &Self::Memory) -> u64 {
        Gpu::address(memory)
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Self::Error> {
        // SAFETY: the caller's contract.
        expect(unsafe { self.0.write(to, bytes) })
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), Self::Error> {
        // SAFETY: the caller's contract.
        expect(unsafe { self.0.read(from, bytes) })
    }

    unsafe fn read_before<T>(
        &self,
        from: u64,
        bytes: &mut [u8],
        meanwhile: impl FnOnce() -> Result<T, Self::Error>,
    ) -> Result<T, Self::Error> {
        let meanwhile = || {
            let Ok(made) = meanwhile();
            Ok(made)
        };
        // SAFETY: the caller's contract.
        expect(unsafe { self.0.read_before(from, bytes, meanwhile) })
    }

    unsafe fn launch(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<(), Self::Error> {
        // SAFETY: the caller's contract.
        expect(unsafe { self.0.launch(kernel, blocks, arguments) })
    }

    unsafe fn multiply(&self, product: &Product) -> Result<(), Self::Error> {
        // SAFETY: the caller's contract.
        expect(unsafe { self.0.multiply(product) })
    }
}
