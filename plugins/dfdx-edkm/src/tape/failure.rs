//! Where a failed op leaves its reason.

use std::sync::{Arc, Mutex, PoisonError};

use crate::EdkmError;

/// A slot for the first error of a tape. dfdx's ops return the device's error, which has no room for a store's or a clustering's.
#[derive(Debug, Clone, Default)]
pub struct Failure(Arc<Mutex<Option<EdkmError>>>);

impl Failure {
    /// The error, if an op of the tape failed. The slot is empty afterwards.
    pub fn take(&self) -> Option<EdkmError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps the first error: what follows from it says less.
    pub(crate) fn set(&self, error: EdkmError) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }
}
