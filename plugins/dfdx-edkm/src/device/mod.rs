//! What the ops of this crate need from a device: a view of a tensor's memory, and one kernel trait an op.
//!
//! dfdx keeps a tensor's storage private; [`DeviceMemory`] is the one place that reaches it. Everything else works on its views.

mod bench;
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;

pub use bench::{Copies, DeviceBench, DeviceUsage, MemoryUsage};
pub(crate) use cpu::memory_mut;
#[cfg(feature = "nccl")]
pub use cuda::nccl::{nccl_learners, NcclLearner};
#[cfg(feature = "cuda")]
pub use cuda::{copies, count_gpus, open_gpu, set_precision, Fresh as FreshOnGpu};
#[cfg(feature = "cuda")]
pub use edkm_cuda::driver::{CopyReport, Precision};

use dfdx::prelude::*;

use crate::half_tensor::HalfKernel;
use crate::ops::{
    add::AddKernel, attention::AttentionKernel, clustered_weight::ClusteredWeightKernel,
    cross_entropy::CrossEntropyKernel, distillation::DistillationKernel, embedding::EmbeddingKernel,
    hidden_distance::HiddenDistanceKernel, linear::LinearKernel, rms_norm::RmsNormKernel, rotary::RotaryKernel,
    swiglu::SwigluKernel,
};
use crate::optim::AdamWKernel;

/// Access to the memory of f32 tensors.
pub trait DeviceMemory: Device<f32> {
    /// A borrowed run of f32 in the device's memory.
    type View<'a>: Copy;

    /// The numbers that an op puts out, before they are a tensor.
    type Fresh;

    /// The memory of a **contiguous** tensor, without a copy. See [`contiguous`].
    ///
    /// # Panics
    /// Where the tensor is not contiguous.
    fn view<S: Shape, T>(tensor: &Tensor<S, f32, Self, T>) -> Self::View<'_>;

    /// Whether the elements stand in memory in the order of their indices, without gaps.
    fn is_contiguous<S: Shape, T>(tensor: &Tensor<S, f32, Self, T>) -> bool;

    /// Makes a tensor of what an op has put out, without a copy.
    fn tensor_from_buffer<S: Shape>(&self, buffer: Self::Fresh, shape: S) -> Result<Tensor<S, f32, Self>, Self::Err>;

    /// Makes a tensor of numbers of the host, without a copy if the device's memory is the host's.
    fn tensor_from_host<S: Shape>(&self, numbers: Vec<f32>, shape: S) -> Result<Tensor<S, f32, Self>, Self::Err>;

    /// A hash of a contiguous tensor's content, made where it lies. Comparable with others of the same device alone.
    fn digest<S: Shape>(tensor: &Tensor<S, f32, Self>) -> Result<edkm_store::Digest, Self::Err>;

    /// A contiguous tensor as bytes that a store can hold: the tensor itself if the device's memory is the host's, else a copy, which need not have
    /// arrived yet.
    fn host_bytes<S: Shape>(
        tensor: Tensor<S, f32, Self>,
    ) -> Result<std::sync::Arc<dyn edkm_store::SharedBytes>, Self::Err>;

    /// The same as bf16, for a store that keeps it so: rounded where it lies (to nearest, ties to even), for half of the bytes to copy. None if there is
    /// nothing to copy, since the memory is the host's.
    fn rounded_host_bytes<S: Shape>(
        _tensor: &Tensor<S, f32, Self>,
    ) -> Result<Option<std::sync::Arc<dyn edkm_store::SharedBytes>>, Self::Err> {
        Ok(None)
    }

    /// A tensor from bytes that a store gave back, those of [`Self::host_bytes`] or of [`Self::rounded_host_bytes`]; without a copy if they are a tensor of
    /// this device that the former wrapped.
    fn tensor_from_host_bytes<S: Shape>(
        &self,
        bytes: std::sync::Arc<dyn edkm_store::SharedBytes>,
        shape: S,
    ) -> Result<Tensor<S, f32, Self>, Self::Err>;

    /// What a store is to do with the bytes of a tensor of `len` numbers that it has fetched ahead, if anything.
    fn uptake(&self, _len: usize) -> Option<std::sync::Arc<dyn edkm_store::Uptake>> {
        None
    }

    /// Where the numbers of a contiguous tensor begin: tensors that share them are told by it, while they are there.
    fn address<S: Shape>(tensor: &Tensor<S, f32, Self>) -> u64;

    /// Bytes of the device's own memory that are free; none if its memory is the host's.
    fn free_bytes(&self) -> Result<Option<u64>, Self::Err> {
        Ok(None)
    }

    /// The device's error for a failure that is described elsewhere (see [`crate::Failure`]).
    fn failed() -> Self::Err;
}

/// A device on which every op of this crate runs.
pub trait EdkmDevice:
    DeviceMemory
    + AddKernel
    + AttentionKernel
    + ClusteredWeightKernel
    + CrossEntropyKernel
    + DistillationKernel
    + EmbeddingKernel
    + HalfKernel
    + HiddenDistanceKernel
    + LinearKernel
    + RmsNormKernel
    + RotaryKernel
    + SwigluKernel
    + AdamWKernel
    + DeviceBench
{
}

impl<D> EdkmDevice for D where
    D: DeviceMemory
        + AddKernel
        + AttentionKernel
        + ClusteredWeightKernel
        + CrossEntropyKernel
        + DistillationKernel
        + EmbeddingKernel
        + HalfKernel
        + HiddenDistanceKernel
        + LinearKernel
        + RmsNormKernel
        + RotaryKernel
        + SwigluKernel
        + AdamWKernel
        + DeviceBench
{
}

/// The tensor as it is, or a contiguous copy made on its tape (a permuted or broadcast view).
pub fn contiguous<S: Shape, D: DeviceMemory, T: Tape<f32, D>>(
    tensor: Tensor<S, f32, D, T>,
) -> Result<Tensor<S, f32, D, T>, D::Err> {
    if D::is_contiguous(&tensor) {
        Ok(tensor)
    } else {
        tensor.try_contiguous()
    }
}
