//! Memory of dfdx's `Cuda`.
//!
//! A tensor's storage is private to dfdx, and no method lends it on the device. What is public is its `Debug` form, which says where the storage
//! begins and how long it is before anything else of size; the formatter is stopped behind that, so that neither cached memory nor the host's copy
//! of a weight is printed. The versions of dfdx and cudarc are pinned for it, and the device tests compare what is read so with `as_vec`.
//!
//! Work of dfdx and of `edkm-cuda` goes to the same stream of the same context: it is done in the order of the calls.
#![allow(unsafe_code)]

mod bench;
#[cfg(feature = "nccl")]
pub(crate) mod nccl;
mod offload;
pub(crate) mod uploaded;

use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use dfdx::prelude::*;
use edkm_cluster::HalfKind;
use edkm_cuda::driver::{CopyReport, Gpu, GpuError, Precision};
use edkm_cuda::halves::Half;
use edkm_cuda::{digest, Array, Slice, SliceMut};
use edkm_store::{Digest, SharedBytes, Uptake};

use super::DeviceMemory;
use crate::EdkmError;

/// A gradient, a moment.
pub(crate) type Buffer = <Cuda as Storage<f32>>::Vec;

/// GPU `ordinal` as a dfdx device, with this crate's kernels ready on it.
///
/// # Errors
/// A GPU that there is not; kernels that cannot be compiled for it; too little memory.
pub fn open_gpu(ordinal: usize, seed: u64) -> Result<Cuda, EdkmError> {
    Gpu::of(ordinal).map_err(error_of_op)?;
    Cuda::try_build(ordinal, seed).map_err(|error| EdkmError::Device(format!("GPU {ordinal}: {error}")))
}

/// How many GPUs there are.
///
/// # Errors
/// A driver that does not answer.
pub fn count_gpus() -> Result<usize, EdkmError> {
    Gpu::count().map_err(error_of_op)
}

/// How the products of all ops on a GPU are computed from now on. Attention, norms, losses and the optimizer stay in f32.
///
/// # Errors
/// The driver's.
pub fn set_precision(device: &Cuda, precision: Precision) -> Result<(), EdkmError> {
    gpu(device).map_err(error_of_op)?.set_precision(precision);
    Ok(())
}

/// The copies of saved tensors between a GPU and the host, since the program began.
///
/// # Errors
/// The driver's.
pub fn copies(device: &Cuda) -> Result<CopyReport, EdkmError> {
    let gpu = gpu(device).map_err(error_of_op)?;
    Ok(gpu.offload().map_err(error_of_op)?.report())
}

/// The GPU of a dfdx device.
pub(crate) fn gpu(device: &Cuda) -> Result<Arc<Gpu>, GpuError> {
    static ONE: OnceLock<bool> = OnceLock::new();
    // dfdx does not say which GPU a device is: where there are several, some memory of it does
    if *ONE.get_or_init(|| Gpu::count() == Ok(1)) {
        return Gpu::of(0);
    }
    match Storage::<f32>::try_alloc_len(device, 1) {
        Ok(memory) => Gpu::of_memory(&memory),
        Err(CudaError::Driver(error)) => Err(GpuError::Driver(error)),
        Err(CudaError::Blas(error)) => Err(GpuError::Blas(error)),
        Err(CudaError::Cpu(_)) => Gpu::of(0),
    }
}

/// dfdx's error. It has no room for what NVRTC says, which goes to the log ([`open_gpu`] returns it).
pub(crate) fn error_of_device(error: GpuError) -> CudaError {
    match error {
        GpuError::Driver(error) => CudaError::Driver(error),
        GpuError::Blas(error) => CudaError::Blas(error),
        other => {
            tracing::error!(%other, "the GPU failed");
            Cuda::failed()
        }
    }
}

/// The error of an op that can say more than dfdx's.
pub(crate) fn error_of_op(error: GpuError) -> EdkmError {
    EdkmError::Device(error.to_string())
}

/// A 16-bit format, as the kernels name it.
pub(crate) fn half(kind: HalfKind) -> Half {
    match kind {
        HalfKind::Bf16 => Half::Bf16,
        HalfKind::F16 => Half::F16,
    }
}

/// Numbers that an op puts out, in memory that nothing else reaches yet.
pub struct Fresh(Tensor<(usize,), f32, Cuda>);

impl Fresh {
    /// So many zeros.
    pub(crate) fn zeroed(device: &Cuda, len: usize) -> Result<Self, CudaError> {
        Ok(Self(device.try_zeros_like(&(len,))?))
    }

    /// To write.
    pub(crate) fn slice_mut(&mut self) -> SliceMut<'_, f32> {
        let storage = Place::of(&self.0);
        // SAFETY: the tensor was made by `zeroed`, so its storage has the length of its shape, and it is the only one on this storage: it is private,
        // and leaves this struct by value alone. So the borrow of `self` is the only way to the numbers.
        unsafe { SliceMut::from_raw(storage.address, storage.len) }
    }
}

impl DeviceMemory for Cuda {
    type View<'a> = Slice<'a, f32>;
    type Fresh = Fresh;

    fn view<S: Shape, T>(tensor: &Tensor<S, f32, Self, T>) -> Slice<'_, f32> {
        assert!(
            Self::is_contiguous(tensor),
            "a view of a tensor that is not contiguous: {:?}",
            tensor.shape()
        );
        let storage = Place::of(&tensor.retaped::<NoneTape>());
        // SAFETY: the storage is of so many numbers, those of the shape in order. It lives in an `Arc` that `tensor` holds for the lifetime of the
        // slice, and is changed only through `&mut` of a tensor that is its sole owner (`Arc::make_mut`).
        unsafe { Slice::from_raw(storage.address, storage.len) }
    }

    fn is_contiguous<S: Shape, T>(tensor: &Tensor<S, f32, Self, T>) -> bool {
        let bare = tensor.retaped::<NoneTape>();
        let len = bare.shape().num_elements();
        let storage = Place::of(&bare);
        // A contiguous tensor is reshaped on the same storage, any other one on a new one.
        storage.len == len
            && bare
                .try_reshape_like(&(len,))
                .is_ok_and(|flat| Place::of(&flat) == storage)
    }

    fn tensor_from_buffer<S: Shape>(&self, buffer: Fresh, shape: S) -> Result<Tensor<S, f32, Self>, CudaError> {
        if buffer.0.shape().0 != shape.num_elements() {
            return Err(CudaError::Cpu(CpuError::WrongNumElements));
        }
        buffer.0.try_reshape_like(&shape)
    }

    fn tensor_from_host<S: Shape>(&self, numbers: Vec<f32>, shape: S) -> Result<Tensor<S, f32, Self>, CudaError> {
        // dfdx's own way keeps the host's numbers as long as the tensor
        self.tensor_from_host_bytes(Arc::new(numbers), shape)
    }

    fn digest<S: Shape>(tensor: &Tensor<S, f32, Self>) -> Result<Digest, CudaError> {
        let gpu = gpu(tensor.device()).map_err(error_of_device)?;
        let hash = digest::digest(&*gpu, Self::view(tensor)).map_err(error_of_device)?;
        Ok(Digest::from_hash(hash))
    }

    fn host_bytes<S: Shape>(tensor: Tensor<S, f32, Self>) -> Result<Arc<dyn SharedBytes>, CudaError> {
        offload::to_host(tensor)
    }

    fn rounded_host_bytes<S: Shape>(tensor: &Tensor<S, f32, Self>) -> Result<Option<Arc<dyn SharedBytes>>, CudaError> {
        offload::to_host_rounded(tensor).map(Some)
    }

    fn tensor_from_host_bytes<S: Shape>(
        &self,
        bytes: Arc<dyn SharedBytes>,
        shape: S,
    ) -> Result<Tensor<S, f32, Self>, CudaError> {
        let fresh = offload::from_host(self, bytes, shape.num_elements())?;
        self.tensor_from_buffer(fresh, shape)
    }

    fn uptake(&self, len: usize) -> Option<Arc<dyn Uptake>> {
        Some(Arc::new(offload::TakeUp::new(self, len)))
    }

    fn address<S: Shape>(tensor: &Tensor<S, f32, Self>) -> u64 {
        Place::of(tensor).address
    }

    fn free_bytes(&self) -> Result<Option<u64>, CudaError> {
        let gpu = gpu(self).map_err(error_of_device)?;
        gpu.free_bytes().map(Some).map_err(error_of_device)
    }

    fn failed() -> CudaError {
        CudaError::Cpu(CpuError::OutOfMemory)
    }
}

/// The elements of a contiguous tensor, for writing in place. Copies first if the storage is shared with another tensor.
///
/// dfdx takes a storage apart from others only inside an op that changes it, and does not say whether it is shared. The op here changes nothing,
/// x <- 1 x + (-0.0) 0, and costs a pass over the tensor and zeros of its size while it runs, and room for the copy.
///
/// # Errors
/// A tensor that is not contiguous, which the log says; the device's.
pub(crate) fn view_mut<S: Shape>(tensor: &mut Tensor<S, f32, Cuda>) -> Result<SliceMut<'_, f32>, CudaError> {
    if !Cuda::is_contiguous(tensor) {
        tracing::error!(
            shape = ?tensor.shape(),
            "a tensor that is permuted or broadcast is not written in place on a GPU: give a contiguous one"
        );
        return Err(Cuda::failed());
    }
    let zeros: Tensor<S, f32, Cuda> = tensor.device().try_zeros_like(tensor.shape())?;
    // dfdx panics where there is no room for the copy: that there is shows in an error here, and what is freed is the copy's
    let gpu = gpu(tensor.device()).map_err(error_of_device)?;
    drop(Array::<Gpu, f32>::unset(&*gpu, tensor.shape().num_elements()).map_err(error_of_device)?);
    tensor.try_axpy(1.0, &zeros, -0.0)?;
    let storage = Place::of(tensor);
    // SAFETY: as in `view`; `try_axpy` has made this tensor the sole owner of its storage, and the borrow of `tensor` is unique.
    Ok(unsafe { SliceMut::from_raw(storage.address, storage.len) })
}

/// Where a storage begins in the device's memory, and of how many numbers it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    address: u64,
    len: usize,
}

impl Place {
    fn of<S: Shape>(tensor: &Tensor<S, f32, Cuda>) -> Self {
        let mut reader = PlaceReader::default();
        // an error here is the formatter being stopped
        let _ = write!(reader, "{tensor:?}");
        reader.place().unwrap_or_else(|| {
            panic!("the place of a tensor on the GPU was not found: dfdx must be 0.13.0 and cudarc 0.9.15");
        })
    }
}

/// Reads a [`Place`] out of a tensor's `Debug` form, `.. CudaSlice { cu_device_ptr: 140234567890, len: 24, ..`, and stops the formatter there.
///
/// Every op asks for some places. So the text is not gathered: the formatter writes the name of a field and a number in one piece each.
#[derive(Default)]
struct PlaceReader {
    awaits: Option<Field>,
    address: Option<u64>,
    len: Option<usize>,
    pieces: usize,
}

#[derive(Clone, Copy)]
enum Field {
    Address,
    Len,
}

impl PlaceReader {
    fn place(&self) -> Option<Place> {
        Some(Place {
            address: self.address?,
            len: self.len?,
        })
    }
}

impl Write for PlaceReader {
    fn write_str(&mut self, piece: &str) -> std::fmt::Result {
        /// More than come before the place: an id and names.
        const MOST: usize = 64;
        self.pieces += 1;
        match (piece, self.awaits) {
            ("cu_device_ptr", _) => self.awaits = Some(Field::Address),
            ("len", _) if self.address.is_some() => self.awaits = Some(Field::Len),
            (": ", Some(_)) => {}
            (number, Some(Field::Address)) => {
                self.address = number.parse().ok();
                self.awaits = None;
            }
            (number, Some(Field::Len)) => {
                self.len = number.parse().ok();
                // whether it was one or not
                return Err(std::fmt::Error);
            }
            (_, None) => {}
        }
        if self.pieces > MOST {
            return Err(std::fmt::Error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    #[expect(dead_code, reason = "to be printed")]
    struct Tensor {
        id: UniqueId,
        data: CachableCudaSlice,
        shape: [usize; 2],
    }

    #[derive(Debug)]
    #[expect(dead_code, reason = "to be printed")]
    struct UniqueId(usize);

    #[derive(Debug)]
    #[expect(dead_code, reason = "to be printed")]
    struct CachableCudaSlice {
        data: CudaSlice,
    }

    #[derive(Debug)]
    #[expect(dead_code, reason = "to be printed")]
    struct CudaSlice {
        cu_device_ptr: u64,
        len: usize,
        device: Unprintable,
    }

    struct Unprintable;

    impl std::fmt::Debug for Unprintable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("the formatter was not stopped");
        }
    }

    #[test]
    fn the_place_is_read_and_the_formatter_is_stopped_behind_it() {
        let tensor = Tensor {
            id: UniqueId(7),
            data: CachableCudaSlice {
                data: CudaSlice {
                    cu_device_ptr: 140_234_567_890,
                    len: 24,
                    device: Unprintable,
                },
            },
            shape: [4, 6],
        };
        let mut reader = PlaceReader::default();
        assert!(write!(reader, "{tensor:?}").is_err());
        let place = Place {
            address: 140_234_567_890,
            len: 24,
        };
        assert_eq!(reader.place(), Some(place));
    }

    #[test]
    fn a_form_without_a_place_gives_none() {
        let mut reader = PlaceReader::default();
        let _ = write!(reader, "{:?}", (UniqueId(7), [4, 6], "len", "24"));
        assert_eq!(reader.place(), None);
        assert!(write!(PlaceReader::default(), "{:?}", [1; 1000]).is_err());
    }
}
