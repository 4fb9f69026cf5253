//! Every op against the CPU's kernels and the definitions: with the feature `driver` on GPU 0, without it on the host, where the CUDA sources are
//! compiled by the system's C++ compiler and run a block at a time.

use edkm_cuda::TooLarge;

mod cached_attention;
mod clustering;
#[cfg_attr(feature = "driver", path = "gpu.rs")]
#[cfg_attr(not(feature = "driver"), path = "simulator.rs")]
mod device;
mod halves;
mod matrix;
mod ops;
mod packed;
mod precision;
mod repetitions;

/// The error of the device of these tests: there is none, since whatever fails is a panic.
#[derive(Debug)]
pub(crate) enum Never {}

impl From<TooLarge> for Never {
    fn from(error: TooLarge) -> Self {
        panic!("{error}")
    }
}
