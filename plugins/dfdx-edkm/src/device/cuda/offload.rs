//! Saved tensors on their way to the host and back, beside the computation.
//!
//! A store that packs on a thread of its own (`edkm_store::StoreBuilder::overlap`) waits there for what still comes, and begins there to bring back
//! what it has fetched ahead; its bound is that of the copies in either direction. Any other store waits where it is called.
#![allow(unsafe_code)]

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use dfdx::prelude::*;
use edkm_cuda::driver::{Download, Gpu, HostBytes, Upload};
use edkm_cuda::halves::{self, Half};
use edkm_cuda::Array;
use edkm_store::{downcast, SharedBytes, Uptake};

use super::{error_of_device, gpu, Fresh};
use crate::device::DeviceMemory;

/// Something on a GPU that may end on another thread.
struct Anywhere<T>(T);

/// What is made of handles of the driver's, and of nothing else that a thread could miss.
trait OfHandles {}

impl OfHandles for Cuda {}
impl<S: Shape> OfHandles for Tensor<S, f32, Cuda> {}
impl OfHandles for Arc<Array<Gpu, u16>> {}
impl OfHandles for Coming {}

// SAFETY: dfdx's `Cuda`, its tensors and this project's memory are made of `Arc`s of handles: a context, streams, cuBLAS, memory. The driver takes each of
// them from any thread that the context is bound to, and cudarc binds it in every call, those of `drop` too. What keeps them from being `Send` is the raw
// handle of `CudaStream` alone, which is used the same way.
unsafe impl<T: OfHandles> Send for Anywhere<T> {}

// SAFETY: as for `Send`: what `&Cuda` can do goes through locks of dfdx's (its cache, its random numbers, its workspace) or the driver's own.
unsafe impl Sync for Anywhere<Cuda> {}

/// A saved tensor's numbers, as they came or come from the GPU.
pub(super) struct Leaving(Arc<Download>);

impl SharedBytes for Leaving {
    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn byte_len(&self) -> usize {
        self.0.byte_len()
    }

    fn arrive(&self) -> Result<(), String> {
        self.0.arrive()
    }
}

/// Begins to copy a contiguous tensor to the host, and holds it until it has arrived.
pub(super) fn to_host<S: Shape>(tensor: Tensor<S, f32, Cuda>) -> Result<Arc<dyn SharedBytes>, CudaError> {
    let gpu = gpu(tensor.device()).map_err(error_of_device)?;
    let keep = Box::new(Anywhere(tensor.clone()));
    // SAFETY: `keep` holds the tensor's memory, which is not written while two tensors share it (`Arc::make_mut`).
    let download = unsafe {
        let offload = gpu.offload().map_err(error_of_device)?;
        offload.download(Cuda::view(&tensor), keep)
    };
    Ok(Arc::new(Leaving(Arc::new(download.map_err(error_of_device)?))))
}

/// The same as bf16. The tensor is not held: what is copied are its rounded numbers, in memory of their own.
pub(super) fn to_host_rounded<S: Shape>(tensor: &Tensor<S, f32, Cuda>) -> Result<Arc<dyn SharedBytes>, CudaError> {
    let gpu = gpu(tensor.device()).map_err(error_of_device)?;
    let download = || {
        let numbers = Cuda::view(tensor);
        let mut rounded = Array::<Gpu, u16>::unset(&*gpu, numbers.len())?;
        halves::round(&*gpu, numbers, Half::Bf16, rounded.as_mut())?;
        let (rounded, offload) = (Arc::new(rounded), gpu.offload()?);
        let keep = Box::new(Anywhere(rounded.clone()));
        // SAFETY: `keep` holds the memory, which nothing writes from here on.
        unsafe { offload.download(rounded.as_slice(), keep) }
    };
    let download = download().map_err(error_of_device)?;
    Ok(Arc::new(Leaving(Arc::new(download))))
}

/// Where numbers arrive that were saved, as they were saved.
enum Landing {
    Numbers(Fresh),
    /// bf16
    Halves(Array<Gpu, u16>),
}

/// An upload and where it goes. In this order: the upload is dropped before the memory that it writes.
struct Coming {
    upload: Upload,
    landing: Landing,
    len: usize,
}

impl Coming {
    /// Lets what is launched from here on wait for the numbers.
    fn join(self, device: &Cuda) -> Result<Fresh, CudaError> {
        self.upload.join().map_err(error_of_device)?;
        match self.landing {
            Landing::Numbers(fresh) => Ok(fresh),
            Landing::Halves(arrived) => {
                let mut fresh = Fresh::zeroed(device, self.len)?;
                let gpu = gpu(device).map_err(error_of_device)?;
                halves::widen(&*gpu, arrived.as_slice(), Half::Bf16, fresh.slice_mut()).map_err(error_of_device)?;
                Ok(fresh)
            }
        }
    }
}

/// Begins to copy so many numbers to the GPU, f32 or bf16, into memory that nobody else has.
fn begin(device: &Cuda, bytes: &Arc<dyn SharedBytes>, len: usize) -> Result<Coming, CudaError> {
    bytes.arrive().map_err(|reason| {
        tracing::error!(reason, "bytes of a saved tensor did not arrive");
        Cuda::failed()
    })?;
    let gpu = gpu(device).map_err(error_of_device)?;
    let mut landing = match bytes.byte_len() {
        full if full == len * size_of::<f32>() => Landing::Numbers(Fresh::zeroed(device, len)?),
        half if half == len * size_of::<u16>() => Landing::Halves(Array::unset(&*gpu, len).map_err(error_of_device)?),
        _ => return Err(CudaError::Cpu(CpuError::WrongNumElements)),
    };
    let leaving = (&**bytes as &dyn Any).downcast_ref::<Leaving>();
    let from = match leaving {
        Some(Leaving(download)) => HostBytes::Downloaded(download),
        None => HostBytes::Other(bytes.as_bytes()),
    };
    let offload = gpu.offload().map_err(error_of_device)?;
    // SAFETY: the memory is fresh, and reached through `landing` alone, which `Coming` keeps until the upload is joined or dropped.
    let upload = unsafe {
        match &mut landing {
            Landing::Numbers(fresh) => offload.upload(from, fresh.slice_mut()),
            Landing::Halves(halves) => offload.upload(from, halves.as_mut()),
        }
    };
    Ok(Coming {
        upload: upload.map_err(error_of_device)?,
        landing,
        len,
    })
}

/// A saved tensor that is being brought back ahead of its time.
struct Arriving {
    bytes: Arc<dyn SharedBytes>,
    /// Until somebody takes them.
    coming: Mutex<Option<Anywhere<Coming>>>,
}

impl SharedBytes for Arriving {
    fn as_bytes(&self) -> &[u8] {
        self.bytes.as_bytes()
    }

    fn byte_len(&self) -> usize {
        self.bytes.byte_len()
    }

    fn arrive(&self) -> Result<(), String> {
        self.bytes.arrive()
    }
}

/// Brings what was fetched ahead to the GPU.
pub(super) struct TakeUp {
    device: Anywhere<Cuda>,
    len: usize,
}

impl TakeUp {
    pub(super) fn new(device: &Cuda, len: usize) -> Self {
        Self {
            device: Anywhere(device.clone()),
            len,
        }
    }
}

impl Uptake for TakeUp {
    fn take_up(&self, bytes: Arc<dyn SharedBytes>) -> Arc<dyn SharedBytes> {
        match begin(&self.device.0, &bytes, self.len) {
            Ok(coming) => Arc::new(Arriving {
                bytes,
                coming: Mutex::new(Some(Anywhere(coming))),
            }),
            Err(error) => {
                // short of memory, perhaps only now
                tracing::debug!(%error, "a saved tensor is not brought back ahead of its time");
                bytes
            }
        }
    }
}

/// So many numbers on the GPU: those that come already, or copied now. What is launched from here on waits for them, the host does not.
pub(super) fn from_host(device: &Cuda, bytes: Arc<dyn SharedBytes>, len: usize) -> Result<Fresh, CudaError> {
    let bytes = match downcast::<Arriving>(bytes) {
        Ok(arriving) => {
            let coming = arriving.coming.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(Anywhere(coming)) = coming {
                return if coming.len == len {
                    coming.join(device)
                } else {
                    Err(CudaError::Cpu(CpuError::WrongNumElements))
                };
            }
            arriving.bytes.clone()
        }
        Err(bytes) => bytes,
    };
    begin(device, &bytes, len)?.join(device)
}
