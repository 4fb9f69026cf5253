//! The seam between a tape and whatever keeps its tensors.

use crate::{Precision, Record, Report, StoreError, Ticket};

/// Keeps records from the forward pass to the backward pass.
pub trait Backend: Send + Sync + 'static {
    /// Takes `record` into the store.
    ///
    /// # Errors
    /// A record that contradicts itself, and whatever the layers meet. A store that packs on another thread may report an
    /// earlier record's failure here.
    fn save(&self, record: Record) -> Result<Ticket, StoreError>;

    /// What a save of `record` would cost now. It costs the time of the save itself, and keeps nothing.
    fn quote(&self, record: &Record) -> Quote;

    /// What is held at this moment, and what it took.
    fn report(&self) -> Report;

    /// How records are kept that leave it [unsaid](Precision::Unsaid); unsaid itself where that cannot be told. What comes back is compared with what was
    /// saved only if this is [`Precision::Exact`], so a store that rounds must say so. If it is [`Precision::Bf16`], who saves may round the numbers
    /// itself, where that saves a copy, and give [`DType::Bf16`](crate::DType::Bf16), which is kept and comes back as it is.
    fn unsaid_precision(&self) -> Precision {
        Precision::Exact
    }
}

/// What a save would cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Bytes of the record.
    pub logical_bytes: usize,
    /// Bytes that the store would keep more than it does now.
    pub kept_bytes: usize,
}
