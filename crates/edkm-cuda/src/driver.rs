//! The GPU: memory, kernels and products by cudarc, on the device's null stream, which is dfdx's too. So launches of both are in order without
//! synchronisation.
#![allow(unsafe_code)]

mod meeting;
#[cfg(feature = "nccl")]
pub mod nccl;
mod offload;
mod pinned;
mod pool;
mod stream;
mod traffic;
mod version;

pub use crate::product::Precision;
pub use offload::{CopyReport, Download, HostBytes, Keep, Offload, Upload, MOST_PINNED_BYTES};
pub use pool::PoolUse;
pub use traffic::{Copies, Traffic};
pub use version::CudaVersion;

use std::collections::BTreeMap;
use std::ffi::{c_void, CString};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use cudarc::cublas::{result::CublasError, sys as cublas, CudaBlas};
use cudarc::driver::{result, sys, CudaDevice, CudaSlice, DevicePtr, DeviceSlice, DriverError};

use crate::product::{Operands, Operation, Product};
use crate::runtime::THREADS;
use crate::{source, Argument, Runtime, Slice, SliceMut, TooLarge};
use pool::MemoryPool;
use traffic::TrafficMeter;

/// What a GPU can fail with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// The driver, out of memory above all.
    #[error("the CUDA driver failed: {0:?}")]
    Driver(DriverError),
    /// cuBLAS.
    #[error("cuBLAS failed: {0:?}")]
    Blas(CublasError),
    /// There are fewer.
    #[error("there is no GPU {ordinal}: this machine has {count} that CUDA can use, counted from 0")]
    NoSuchGpu {
        /// The one asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// A driver for an older CUDA than the libraries: neither cuBLAS nor what NVRTC compiles runs with it.
    #[error(
        "the GPU's driver is for CUDA {}.{}, and the CUDA libraries are of {}.{}: a newer driver is needed ({reason})",
        driver.major, driver.minor, libraries.major, libraries.minor
    )]
    OldDriver {
        /// What the driver is for.
        driver: CudaVersion,
        /// That of NVRTC.
        libraries: CudaVersion,
        /// What failed.
        reason: String,
    },
    /// A size beyond what the device or cuBLAS counts.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// NVRTC, when the kernels are compiled.
    #[error("the CUDA kernels could not be compiled by NVRTC for {architecture}: {reason}")]
    Compile {
        /// The architecture asked for: `compute_90`.
        architecture: String,
        /// NVRTC's message.
        reason: String,
    },
}

impl GpuError {
    /// Whether the GPU's memory did not suffice.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Driver(error) => error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            Self::Blas(error) => error.0 == cublas::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED,
            Self::NoSuchGpu { .. } | Self::OldDriver { .. } | Self::TooLarge(_) | Self::Compile { .. } => false,
        }
    }
}

impl From<DriverError> for GpuError {
    fn from(error: DriverError) -> Self {
        GpuError::Driver(error)
    }
}

impl From<CublasError> for GpuError {
    fn from(error: CublasError) -> Self {
        GpuError::Blas(error)
    }
}

/// A GPU with this crate's kernels.
pub struct Gpu {
    device: Arc<CudaDevice>,
    blas: CudaBlas,
    /// For products whose factors stand in the GPU's memory.
    blas_on_device: CudaBlas,
    precision: RwLock<Precision>,
    functions: BTreeMap<&'static str, sys::CUfunction>,
    offload: OnceLock<Arc<Offload>>,
    /// For what the host waits for while kernels run: not behind saved tensors.
    reading: OnceLock<Arc<Offload>>,
    traffic: Arc<TrafficMeter>,
}

// SAFETY: functions of a loaded module are handles that any thread may launch, once the device's context is bound to it (which `launch` does).
unsafe impl Send for Gpu {}
// SAFETY: as for `Send`; `CudaDevice` and `CudaBlas` are `Sync`, and the map of functions is only read.
unsafe impl Sync for Gpu {}

/// The GPUs in use, by ordinal. The kernels stay loaded until the program ends.
static GPUS: Mutex<BTreeMap<usize, Arc<Gpu>>> = Mutex::new(BTreeMap::new());

impl Gpu {
    /// The GPU of this ordinal; the first call compiles the kernels for it.
    ///
    /// # Errors
    /// A GPU that cannot be opened, kernels that do not compile for it.
    pub fn of(ordinal: usize) -> Result<Arc<Self>, GpuError> {
        let mut gpus = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = gpus.get(&ordinal) {
            return Ok(gpu.clone());
        }
        let opened =
            Gpu::open(ordinal).map_err(|error| match (CudaVersion::of_driver(), CudaVersion::of_libraries()) {
                (Ok(driver), Some(libraries)) => error.with_versions(driver, libraries),
                _ => error,
            });
        let gpu = Arc::new(opened?);
        gpus.insert(ordinal, gpu.clone());
        Ok(gpu)
    }

    fn open(ordinal: usize) -> Result<Self, GpuError> {
        let count = Self::count()?;
        if ordinal >= count {
            return Err(GpuError::NoSuchGpu { ordinal, count });
        }
        let device = CudaDevice::new(ordinal)?;
        // a device without memory pools works too
        let kept = MemoryPool::of(&device).and_then(|pool| pool.map_or(Ok(()), |pool| pool.keep_freed_memory()));
        if let Err(error) = kept {
            tracing::debug!(?error, "freed memory goes back to the system");
        }
        let blas = CudaBlas::new(device.clone())?;
        let blas_on_device = CudaBlas::new(device.clone())?;
        let mode = cublas::cublasPointerMode_t::CUBLAS_POINTER_MODE_DEVICE;
        // SAFETY: the handle is that of a live `CudaBlas`.
        unsafe { cublas::cublasSetPointerMode_v2(*blas_on_device.handle(), mode) }.result()?;
        let functions = load(&device)?;
        Ok(Gpu {
            device,
            blas,
            blas_on_device,
            precision: RwLock::default(),
            functions,
            offload: OnceLock::new(),
            reading: OnceLock::new(),
            traffic: Arc::default(),
        })
    }

    /// Chooses how products are computed from now on, in all threads.
    pub fn set_precision(&self, precision: Precision) {
        *self.precision.write().unwrap_or_else(PoisonError::into_inner) = precision;
    }

    /// The GPU that this memory lies on.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn of_memory<T>(memory: &CudaSlice<T>) -> Result<Arc<Self>, GpuError> {
        Self::of(memory.device().ordinal())
    }

    /// How many GPUs there are.
    ///
    /// # Errors
    /// A driver that does not answer.
    pub fn count() -> Result<usize, GpuError> {
        result::init()?;
        Ok(CudaDevice::count()?.max(0) as usize)
    }

    /// The copies beside the computation. The first call makes their stream.
    ///
    /// # Errors
    /// The driver's.
    pub fn offload(&self) -> Result<&Arc<Offload>, GpuError> {
        self.copies(&self.offload)
    }

    fn copies<'a>(&self, copies: &'a OnceLock<Arc<Offload>>) -> Result<&'a Arc<Offload>, GpuError> {
        if let Some(copies) = copies.get() {
            return Ok(copies);
        }
        let made = Offload::new(&self.device, self.traffic.clone())?;
        // another thread may have been faster: then its own is the one
        Ok(copies.get_or_init(|| made))
    }

    /// Waits for all that the null stream was given.
    ///
    /// # Errors
    /// The driver's: what went wrong in between shows here.
    pub fn wait(&self) -> Result<(), GpuError> {
        Ok(self.device.synchronize()?)
    }

    /// Bytes of the GPU's memory that are taken, by whomever. What this process has freed counts as long as the driver's pool keeps it.
    ///
    /// # Errors
    /// The driver's.
    pub fn taken_bytes(&self) -> Result<u64, GpuError> {
        self.device.bind_to_thread()?;
        let (free, total) = result::mem_get_info()?;
        Ok(total.saturating_sub(free) as u64)
    }

    /// Memory that this process's numbers take on the GPU; none where the driver has no pools. Waits for the device, so that what was freed is free.
    ///
    /// # Errors
    /// The driver's.
    pub fn pool_use(&self) -> Result<Option<PoolUse>, GpuError> {
        self.wait()?;
        let pool = MemoryPool::of(&self.device)?;
        Ok(pool.map(|pool| pool.used()).transpose()?)
    }

    /// Lets the peak of [`Self::pool_use`] begin anew, from what is used at present.
    ///
    /// # Errors
    /// The driver's.
    pub fn reset_peak(&self) -> Result<(), GpuError> {
        self.wait()?;
        let pool = MemoryPool::of(&self.device)?;
        Ok(pool.map_or(Ok(()), |pool| pool.reset_peak())?)
    }

    /// What was copied between the host and this GPU so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic.get()
    }

    /// Bytes of the GPU's memory that are free for numbers of this process: what nobody has, and what the driver's pool keeps of what this process has
    /// freed. Waits for the device, so that what was freed is free.
    ///
    /// # Errors
    /// The driver's.
    pub fn free_bytes(&self) -> Result<u64, GpuError> {
        self.wait()?;
        let pool = MemoryPool::of(&self.device)?;
        let kept = pool.map_or(Ok(0), |pool| pool.idle_bytes())?;
        Ok((result::mem_get_info()?.0 as u64).saturating_add(kept))
    }

    /// Copies numbers on the GPU.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn copy(&self, from: Slice<'_, f32>, mut to: SliceMut<'_, f32>) -> Result<(), GpuError> {
        crate::check::len("from", from.len(), to.len());
        let bytes = to.len() * size_of::<f32>();
        self.device.bind_to_thread()?;
        // SAFETY: both slices are of so many bytes of this GPU's memory, and `to` is borrowed uniquely.
        unsafe { result::memcpy_dtod_async(to.address(), from.address(), bytes, std::ptr::null_mut()) }?;
        Ok(())
    }

    /// The device.
    pub fn device(&self) -> &Arc<CudaDevice> {
        &self.device
    }
}

impl<'a, T> From<&'a CudaSlice<T>> for Slice<'a, T> {
    fn from(memory: &'a CudaSlice<T>) -> Self {
        // SAFETY: cudarc's slice owns so many numbers from there on, and lends them for `'a`.
        unsafe { Slice::from_raw(*memory.device_ptr(), memory.len()) }
    }
}

impl<'a, T> From<&'a mut CudaSlice<T>> for SliceMut<'a, T> {
    fn from(memory: &'a mut CudaSlice<T>) -> Self {
        // SAFETY: cudarc's slice owns so many numbers from there on, and lends them to nobody else for `'a`.
        unsafe { SliceMut::from_raw(*memory.device_ptr(), memory.len()) }
    }
}

/// Compiles the sources for the device's architecture and loads all kernels.
fn load(device: &Arc<CudaDevice>) -> Result<BTreeMap<&'static str, sys::CUfunction>, GpuError> {
    use sys::CUdevice_attribute as Attribute;
    let major = device.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = device.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let architecture = format!("compute_{major}{minor}");
    let failed = |reason: String| GpuError::Compile {
        architecture: architecture.clone(),
        reason,
    };
    let options = cudarc::nvrtc::CompileOptions {
        // cudarc wants the name for ever; it is made once a device
        arch: Some(Box::leak(architecture.clone().into_boxed_str())),
        // the sources say themselves what is fused: the same bits on the host and on the GPU
        fmad: Some(false),
        ..Default::default()
    };
    let ptx = cudarc::nvrtc::compile_ptx_with_opts(source::translation_unit(), options)
        .map_err(|error| failed(format!("{error:?}")))?;
    let ptx = CString::new(ptx.to_src()).map_err(|error| failed(error.to_string()))?;
    device.bind_to_thread()?;
    // SAFETY: the image is PTX with a zero at its end, and the device's context is bound. The module is never unloaded.
    let module = unsafe { result::module::load_data(ptx.as_ptr().cast()) }?;
    source::kernels()
        .map(|name| {
            let symbol = CString::new(name).map_err(|error| failed(error.to_string()))?;
            // SAFETY: the module is loaded.
            let function = unsafe { result::module::get_function(module, symbol) }?;
            Ok((name, function))
        })
        .collect()
}

impl Runtime for Gpu {
    type Error = GpuError;
    type Memory = CudaSlice<u8>;

    fn allocate(&self, bytes: usize) -> Result<CudaSlice<u8>, GpuError> {
        Ok(self.device.alloc_zeros(bytes)?)
    }

    fn allocate_unset(&self, bytes: usize) -> Result<CudaSlice<u8>, GpuError> {
        // SAFETY: any bytes are numbers of the types that this crate keeps in memory; what they are is the caller's concern.
        Ok(unsafe { self.device.alloc(bytes) }?)
    }

    fn address(memory: &CudaSlice<u8>) -> u64 {
        *memory.device_ptr()
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<(), GpuError> {
        self.device.bind_to_thread()?;
        // SAFETY: the caller's contract. The copy is on the null stream and done when the call returns.
        unsafe { result::memcpy_htod_sync(to, bytes) }?;
        self.traffic.to_gpu(bytes.len());
        Ok(())
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.device.bind_to_thread()?;
        // SAFETY: the caller's contract. The copy is on the null stream, so behind all launches.
        unsafe { result::memcpy_dtoh_sync(bytes, from) }?;
        self.traffic.to_host(bytes.len());
        Ok(())
    }

    unsafe fn read_before<T>(
        &self,
        from: u64,
        bytes: &mut [u8],
        meanwhile: impl FnOnce() -> Result<T, GpuError>,
    ) -> Result<T, GpuError> {
        let reading = self.copies(&self.reading)?;
        // SAFETY: the caller's contract. The copy is waited for before this returns, by `drop` if `meanwhile` fails.
        let download = unsafe { reading.download(Slice::<u8>::from_raw(from, bytes.len()), Box::new(())) }?;
        let made = meanwhile()?;
        bytes.copy_from_slice(download.bytes()?);
        Ok(made)
    }

    unsafe fn launch(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<(), GpuError> {
        let Some(&function) = self.functions.get(kernel) else {
            return Err(GpuError::Compile {
                architecture: "the device".into(),
                reason: format!("no kernel {kernel}"),
            });
        };
        let mut bits: Vec<u64> = arguments.iter().map(|argument| argument.bits()).collect();
        let mut pointers: Vec<*mut c_void> = bits.iter_mut().map(|bits| std::ptr::from_mut(bits).cast()).collect();
        self.device.bind_to_thread()?;
        let (grid, block) = ((blocks, 1, 1), (THREADS as u32, 1, 1));
        // SAFETY: the caller's contract; each pointer is to 8 bytes of which the kernel reads the first as its parameter.
        unsafe { result::launch_kernel(function, grid, block, 0, std::ptr::null_mut(), &mut pointers) }?;
        Ok(())
    }

    fn precision(&self) -> Precision {
        *self.precision.read().unwrap_or_else(PoisonError::into_inner)
    }

    unsafe fn multiply(&self, product: &Product) -> Result<(), GpuError> {
        use cublas::cudaDataType_t::{CUDA_R_16F, CUDA_R_32F};
        let sizes = product.sizes()?;
        self.device.bind_to_thread()?;
        let one = 1.0f32;
        let host = |x: &f32| std::ptr::from_ref(x).cast::<c_void>();
        let call = match &product.operands {
            Operands::F32 { beta } => Call {
                blas: &self.blas,
                factors: [host(&one), host(beta)],
                operands: CUDA_R_32F,
                // without TF32: cuBLAS takes it only where it is asked for
                compute: cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            },
            Operands::Tf32 { beta } => Call {
                blas: &self.blas,
                factors: [host(&one), host(beta)],
                operands: CUDA_R_32F,
                compute: cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            },
            Operands::F16 { scales } => Call {
                blas: &self.blas_on_device,
                factors: [*scales, *scales + size_of::<f32>() as u64].map(|address| address as *const c_void),
                operands: CUDA_R_16F,
                compute: cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            },
        };
        // SAFETY: the caller's contract. The factors are host pointers that live through the call, or stand in the device's memory, as the handle's
        // pointer mode says.
        unsafe { call.gemm(product, sizes) }?;
        Ok(())
    }
}

/// What differs between the ways to multiply.
struct Call<'a> {
    blas: &'a CudaBlas,
    /// alpha and beta, f32.
    factors: [*const c_void; 2],
    operands: cublas::cudaDataType,
    compute: cublas::cublasComputeType_t,
}

impl Call<'_> {
    /// # Safety
    /// The sizes are those of the product. The factors are where the handle looks for them; the matrices lie in the device's memory and are of the type of
    /// `operands`, C of f32.
    unsafe fn gemm(&self, product: &Product, [m, n, k, lda, ldb, ldc]: [i32; 6]) -> Result<(), CublasError> {
        let operation = |operation| match operation {
            Operation::None => cublas::cublasOperation_t::CUBLAS_OP_N,
            Operation::Transpose => cublas::cublasOperation_t::CUBLAS_OP_T,
        };
        let [alpha, beta] = self.factors;
        // SAFETY: the caller's contract.
        unsafe {
            cudarc::cublas::result::gemm_ex(
                *self.blas.handle(),
                operation(product.op_a),
                operation(product.op_b),
                m,
                n,
                k,
                alpha,
                product.a as *const c_void,
                self.operands,
                lda,
                product.b as *const c_void,
                self.operands,
                ldb,
                beta,
                product.c as *mut c_void,
                cublas::cudaDataType_t::CUDA_R_32F,
                ldc,
                self.compute,
                cublas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
    }
}
