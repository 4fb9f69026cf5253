//! The driver's pool, from which all of this process's numbers on a GPU have their memory.
#![allow(unsafe_code)]

use cudarc::driver::{sys, CudaDevice, DriverError};
use sys::CUmemPool_attribute as Attribute;

/// Memory of a GPU that this process's numbers take, without what the pool keeps free, and without the driver's and cuBLAS's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUse {
    /// Bytes at present.
    pub used_bytes: u64,
    /// Bytes at the most since [`super::Gpu::reset_peak`].
    pub peak_bytes: u64,
}

/// The pool of a device; none for one without pools.
pub(super) struct MemoryPool(sys::CUmemoryPool);

impl MemoryPool {
    pub(super) fn of(device: &CudaDevice) -> Result<Option<Self>, DriverError> {
        if device.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? == 0 {
            return Ok(None);
        }
        device.bind_to_thread()?;
        let mut pool = std::ptr::null_mut();
        // SAFETY: the device is open; the call writes to the local variable that it is given.
        unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, *device.cu_device()).result() }?;
        Ok(Some(Self(pool)))
    }

    /// Lets freed memory stay with the pool: it would go back to the system whenever the device is waited for, and be mapped anew.
    pub(super) fn keep_freed_memory(&self) -> Result<(), DriverError> {
        self.set(Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX)
    }

    /// Lets other GPUs reach what the pool of `own` gives, where they can reach that GPU at all: NCCL reads and writes what it gathers on the GPUs of one
    /// process directly.
    #[cfg(feature = "nccl")]
    pub(super) fn open_to(&self, own: sys::CUdevice, others: &[sys::CUdevice]) -> Result<(), DriverError> {
        let mut reached_by = Vec::new();
        for &other in others.iter().filter(|&&other| other != own) {
            let mut can_reach = 0;
            // SAFETY: both devices are open; the call writes to the local variable that it is given.
            unsafe { sys::cuDeviceCanAccessPeer(&mut can_reach, other, own).result() }?;
            if can_reach != 0 {
                reached_by.push(sys::CUmemAccessDesc {
                    location: sys::CUmemLocation {
                        type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
                        id: other,
                    },
                    flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
                });
            }
        }
        if reached_by.is_empty() {
            return Ok(());
        }
        // SAFETY: the pool is the device's own, which is never destroyed; the call reads so many descriptions.
        unsafe { sys::cuMemPoolSetAccess(self.0, reached_by.as_ptr(), reached_by.len()).result() }
    }

    pub(super) fn used(&self) -> Result<PoolUse, DriverError> {
        Ok(PoolUse {
            used_bytes: self.get(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
            peak_bytes: self.get(Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?,
        })
    }

    /// Bytes that the pool keeps and nobody uses: numbers to come have them, though to the rest of the system they are taken.
    pub(super) fn idle_bytes(&self) -> Result<u64, DriverError> {
        let reserved = self.get(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        Ok(reserved.saturating_sub(self.get(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?))
    }

    /// Lets the peak begin anew, from what is used at present.
    pub(super) fn reset_peak(&self) -> Result<(), DriverError> {
        // the driver takes no other number than zero
        self.set(Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0)
    }

    fn get(&self, attribute: Attribute) -> Result<u64, DriverError> {
        let mut value = 0u64;
        // SAFETY: the pool is the device's own, which is never destroyed; each attribute that is asked for here is a 64-bit number.
        unsafe { sys::cuMemPoolGetAttribute(self.0, attribute, std::ptr::from_mut(&mut value).cast()).result() }?;
        Ok(value)
    }

    fn set(&self, attribute: Attribute, mut value: u64) -> Result<(), DriverError> {
        // SAFETY: as in `get`.
        unsafe { sys::cuMemPoolSetAttribute(self.0, attribute, std::ptr::from_mut(&mut value).cast()).result() }
    }
}
