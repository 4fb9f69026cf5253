//! Tensors that lose nothing in 16 bits, kept so.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use dfdx::prelude::*;
use edkm_cluster::HalfKind;

use crate::device::{contiguous, DeviceMemory};

/// The device's part of [`HalfTensor`].
pub trait HalfKernel: DeviceMemory {
    /// 16-bit numbers in the device's memory.
    type Halves: Send + Sync;

    /// The numbers of a contiguous tensor, rounded to nearest.
    fn round_to_half<S: Shape>(tensor: &Tensor<S, f32, Self>, kind: HalfKind) -> Result<Self::Halves, Self::Err>;

    /// A tensor of the numbers, exactly.
    fn widen_half<S: Shape>(
        &self,
        halves: &Self::Halves,
        kind: HalfKind,
        shape: S,
    ) -> Result<Tensor<S, f32, Self>, Self::Err>;
}

/// A tensor whose numbers all are bf16's, or all f16's, as those of most published models are. Memory: 2 bytes a number.
pub struct HalfTensor<S: Shape, D: HalfKernel> {
    halves: D::Halves,
    kind: HalfKind,
    shape: S,
    device: D,
}

impl<S: Shape, D: HalfKernel> HalfTensor<S, D> {
    /// The numbers of `tensor` in the first of bf16 and f16 that has them all; `None` if neither has. Memory meanwhile: 6 bytes a number.
    ///
    /// # Errors
    /// The device's.
    pub fn of(tensor: &Tensor<S, f32, D>) -> Result<Option<Self>, D::Err> {
        let tensor = contiguous(tensor.clone())?;
        let digest = D::digest(&tensor)?;
        for kind in [HalfKind::Bf16, HalfKind::F16] {
            let half = Self {
                halves: D::round_to_half(&tensor, kind)?,
                kind,
                shape: *tensor.shape(),
                device: tensor.device().clone(),
            };
            if D::digest(&half.widen()?)? == digest {
                return Ok(Some(half));
            }
        }
        Ok(None)
    }

    /// The tensor that it was made of, in memory of its own.
    ///
    /// # Errors
    /// The device's.
    pub fn widen(&self) -> Result<Tensor<S, f32, D>, D::Err> {
        self.device.widen_half(&self.halves, self.kind, self.shape)
    }
}
