//! What can go wrong in a store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::DType;

/// A failure of a store.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The bytes that are kept are not those that were saved.
    #[error("saved tensor `{label}` is corrupt: its {layer} blob of {bytes} bytes does not match its checksum")]
    Corrupt {
        /// The record's label.
        label: &'static str,
        /// The layer that noticed.
        layer: &'static str,
        /// Bytes of the blob.
        bytes: usize,
    },
    /// A record's bytes are not what its shape and element type say.
    #[error("cannot save `{label}`: shape {shape:?} of {dtype:?} does not describe {got} bytes")]
    Length {
        /// The record's label.
        label: &'static str,
        /// The record's element type.
        dtype: DType,
        /// The record's shape.
        shape: Vec<usize>,
        /// Bytes of the record.
        got: usize,
    },
    /// A record's keys are not one `u16` for each row.
    #[error("cannot save `{label}`: {rows} rows need {} bytes of u16 keys, got {got}", rows * 2)]
    Keys {
        /// The record's label.
        label: &'static str,
        /// Length of the first axis.
        rows: usize,
        /// Bytes of the keys.
        got: usize,
    },
    /// Layers were asked for in an order that makes no sense.
    #[error("layer `{layer}` cannot act after `{after}`: {reason}")]
    Order {
        /// The layer that came too late.
        layer: &'static str,
        /// The layer before it.
        after: &'static str,
        /// Why it has no place there.
        reason: &'static str,
    },
    /// A store was described in words that it does not know, or that need something which was not given.
    #[error("store layer `{item}`: {reason}")]
    Spec {
        /// The part of the description that is at fault.
        item: String,
        /// What is wrong with it, and what is understood.
        reason: String,
    },
    /// The spill file could not be made.
    #[error("cannot make a spill file in {}: {source}; choose a directory that exists and can be written to", dir.display())]
    SpillDir {
        /// The directory that was chosen for it.
        dir: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The spill file could not be written or read.
    #[error("spill file in {}: cannot {doing} {wanted} bytes: {source}", dir.display())]
    Disk {
        /// The directory that was chosen for it.
        dir: PathBuf,
        /// What was tried: write, read.
        doing: &'static str,
        /// Bytes wanted.
        wanted: u64,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Another learner failed or left, so what is sharded cannot be gathered.
    #[error("learner {rank} of {world} {reason}")]
    Learner {
        /// The learner at fault.
        rank: usize,
        /// Learners in the group.
        world: usize,
        /// What it did.
        reason: String,
    },
    /// A codec failed, or a blob that it is to decode is not one of its own.
    #[error("saved tensor `{label}`: {codec} cannot {doing} it: {reason}")]
    Codec {
        /// The record's label.
        label: &'static str,
        /// The codec, or the layer that acts as one.
        codec: &'static str,
        /// What it was to do: encode, decode, expand.
        doing: &'static str,
        /// What it found.
        reason: String,
    },
    /// The bytes of a record, which were still on their way from a device when it was saved, did not arrive.
    #[error("saved tensor `{label}` did not arrive from its device: {reason}")]
    Arrival {
        /// The record's label.
        label: &'static str,
        /// What the device said.
        reason: String,
    },
    /// A backend of one's own failed.
    #[error("the storage backend failed: {reason}")]
    Backend {
        /// What it met.
        reason: String,
    },
    /// A backend gave other bytes back than it was given.
    #[error("the storage backend gave {got} bytes back for a tensor of {expected}")]
    OtherLength {
        /// Bytes of the tensor.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// The packing thread could not be started, or something that it ran for a record panicked.
    #[error("the store's packing thread: {reason}")]
    Worker {
        /// What happened.
        reason: String,
    },
}

impl StoreError {
    /// A learner that gathers something else than the others.
    pub(crate) fn came_apart(rank: usize, world: usize) -> Self {
        let reason = "gathers another record than the others: its program took another course, or what it saved as \
                      replicated is not"
            .to_owned();
        Self::Learner { rank, world, reason }
    }
}
