//! What goes to a GPU once, for all ops that use it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use edkm_cuda::driver::{Gpu, GpuError};

/// What was made on GPUs of values on the host, for as long as those are in use.
pub(crate) struct Uploads<T: ?Sized, U>(Mutex<Vec<Upload<T, U>>>);

struct Upload<T: ?Sized, U> {
    of: Weak<T>,
    /// What else it depends on.
    size: usize,
    ordinal: usize,
    uploaded: Arc<U>,
}

impl<T: ?Sized, U> Uploads<T, U> {
    /// None yet.
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// That of the very value `of` and of `size` on this GPU; the first time it is made.
    pub(crate) fn get(
        &self,
        gpu: &Gpu,
        of: &Arc<T>,
        size: usize,
        upload: impl FnOnce() -> Result<U, GpuError>,
    ) -> Result<Arc<U>, GpuError> {
        let mut uploads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.retain(|entry| entry.of.strong_count() > 0);
        let ordinal = gpu.device().ordinal();
        let known = uploads.iter().find(|entry| {
            entry.ordinal == ordinal && entry.size == size && std::ptr::addr_eq(entry.of.as_ptr(), Arc::as_ptr(of))
        });
        if let Some(entry) = known {
            return Ok(entry.uploaded.clone());
        }
        let uploaded = Arc::new(upload()?);
        uploads.push(Upload {
            of: Arc::downgrade(of),
            size,
            ordinal,
            uploaded: uploaded.clone(),
        });
        Ok(uploaded)
    }
}
