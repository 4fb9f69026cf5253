//! Versions of CUDA: the driver's, and that of the libraries.
#![allow(unsafe_code)]

use cudarc::driver::{sys, DriverError};

use super::GpuError;

/// A version of CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    /// 13 of 13.0
    pub major: i32,
    /// 0 of 13.0
    pub minor: i32,
}

impl CudaVersion {
    /// The newest that the driver is for.
    pub(super) fn of_driver() -> Result<Self, DriverError> {
        let mut version = 0;
        // SAFETY: writes to the local variable.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
        Ok(Self {
            major: version / 1000,
            minor: version % 1000 / 10,
        })
    }

    /// That of NVRTC; none if it does not tell.
    pub(super) fn of_libraries() -> Option<Self> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes to the local variables.
        let outcome = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
        outcome.result().is_ok().then_some(Self { major, minor })
    }
}

impl GpuError {
    /// The same, or what is behind it: a driver that is older than the libraries.
    pub(super) fn with_versions(self, driver: CudaVersion, libraries: CudaVersion) -> Self {
        match self {
            Self::NoSuchGpu { .. } => self,
            _ if driver >= libraries || self.is_out_of_memory() => self,
            _ => Self::OldDriver {
                driver,
                libraries,
                reason: self.to_string(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_too_old_is_named() {
        let [old, new] = [(12, 4), (13, 0)].map(|(major, minor)| CudaVersion { major, minor });
        let failed = || GpuError::Driver(DriverError(sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION));
        let message = failed().with_versions(old, new).to_string();
        for part in ["CUDA 12.4", "13.0", "UNSUPPORTED_PTX_VERSION"] {
            assert!(message.contains(part), "no `{part}` in: {message}");
        }
        assert_eq!(failed().with_versions(new, new), failed());
        assert_eq!(failed().with_versions(new, old), failed());
        // what has nothing to do with it
        let no_gpu = GpuError::NoSuchGpu { ordinal: 1, count: 1 };
        assert_eq!(no_gpu.clone().with_versions(old, new), no_gpu);
    }
}
