//! The right to have a saved record back, once.

use std::sync::Arc;

use crate::layers::below;
use crate::{SharedBytes, StoreError};

/// What a layer keeps for one record. Dropping it frees what no other record shares.
pub trait Held: Send + Sync {
    /// The bytes that were saved. Asked for again by a layer that holds one content for several records, when those that had it have let go of it.
    ///
    /// # Errors
    /// Whatever keeps it from giving them back: damage, a disk or a learner that fails.
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError>;

    /// Bytes that this save added to what the store keeps; nothing for a content that was already there.
    fn kept_bytes(&self) -> usize;

    /// Gets ready for `fetch` what can be had without the other learners. Failures are left to `fetch`.
    fn warm(&self) {}

    /// Whether `fetch` takes part in a collective operation, which must run in the order of the program.
    fn gathers(&self) -> bool {
        false
    }
}

/// The right to have a saved record back, once. Dropping it gives the right up; the last ticket of a content frees it.
#[must_use = "a record whose ticket is dropped is freed"]
pub struct Ticket {
    held: Box<dyn Held>,
    logical_bytes: usize,
}

impl Ticket {
    /// A ticket of a backend of one's own.
    pub fn new(held: Box<dyn Held>, logical_bytes: usize) -> Self {
        Self { held, logical_bytes }
    }

    /// The bytes that were saved, in a `Vec` of the record's element type (`u16` for 16-bit floats, unsigned for signed)
    /// when the store had to rebuild them, and otherwise the very value that was saved. Use [`crate::downcast`] to tell.
    ///
    /// # Errors
    /// Those of [`Held::fetch`]. How many bytes come back is compared by who knows how many there must be.
    pub fn load(self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        self.held.fetch()
    }

    /// Bytes of the record as it was saved.
    pub fn logical_bytes(&self) -> usize {
        self.logical_bytes
    }

    /// Bytes that this save added to what the store keeps; nothing for a content that was already there.
    pub fn kept_bytes(&self) -> usize {
        self.held.kept_bytes()
    }
}

/// For a backend around another one: what it holds is the other's ticket.
impl Held for Ticket {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        self.held.fetch()
    }

    below!();
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("logical_bytes", &self.logical_bytes)
            .finish_non_exhaustive()
    }
}
