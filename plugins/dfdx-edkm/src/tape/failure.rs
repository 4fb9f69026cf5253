//! Where a failed op leaves its reason.

use std::sync::{Arc, Mutex, PoisonError};

use crate::EdkmError;

/// A slot for the first error of a tape. dfdx's ops return the device's error, which has no room for a store's or a clustering's.
#[derive(Debug, Clone, Default)]
pub struct Failure(Arc<Slot>);

#[derive(Debug, Default)]
struct Slot {
    error: Mutex<Option<EdkmError>>,
}

/// What nobody has asked for is not lost.
impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(error) = self.error.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            tracing::error!("{error}");
        }
    }
}

impl Failure {
    /// The error, if an op of the tape failed. The slot is empty afterwards.
    pub fn take(&self) -> Option<EdkmError> {
        self.0.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps the first error: what follows from it says less.
    pub(crate) fn set(&self, error: EdkmError) {
        self.0
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }
}
