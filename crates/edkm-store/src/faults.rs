//! Faults on demand, for tests of what happens when memory or disk fail. Without the feature `faults` it does nothing.

use std::sync::Arc;

use crate::SharedBytes;

/// Flips a bit in blobs after their checksums were taken.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    #[cfg(any(test, feature = "faults"))]
    flips: std::sync::atomic::AtomicUsize,
}

impl Faults {
    /// The bytes to store: the given ones, or a copy with one bit flipped when a fault is due.
    #[cfg(any(test, feature = "faults"))]
    pub(crate) fn strike(&self, bytes: Arc<dyn SharedBytes>) -> Arc<dyn SharedBytes> {
        use std::sync::atomic::Ordering::Relaxed;
        let due = |flips: usize| flips.checked_sub(1);
        if bytes.as_bytes().is_empty() || self.flips.fetch_update(Relaxed, Relaxed, due).is_err() {
            return bytes;
        }
        let mut copy = bytes.as_bytes().to_vec();
        let middle = copy.len() / 2;
        copy[middle] ^= 0x10;
        Arc::new(copy)
    }

    #[cfg(not(any(test, feature = "faults")))]
    pub(crate) fn strike(&self, bytes: Arc<dyn SharedBytes>) -> Arc<dyn SharedBytes> {
        bytes
    }

    #[cfg(any(test, feature = "faults"))]
    pub(crate) fn flip_next(&self, blobs: usize) {
        self.flips.store(blobs, std::sync::atomic::Ordering::Relaxed);
    }
}
