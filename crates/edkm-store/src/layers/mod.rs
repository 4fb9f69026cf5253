//! The layers, and what they have in common.

mod bf16;
mod compress;
mod marshal;
mod memory;
mod own_base;
mod shard;
mod spill;
mod uniquify;

pub(crate) use bf16::Bf16;
pub(crate) use compress::Compress;
pub(crate) use marshal::Marshal;
pub(crate) use memory::Memory;
pub(crate) use own_base::OwnBase;
pub(crate) use shard::Shard;
pub(crate) use spill::Spill;
pub(crate) use uniquify::Uniquify;

use std::sync::Arc;

use crate::digest::Digest;
use crate::{Held, Record, Report, SharedBytes, StoreError};

/// A record on its way down the stack, with what the layers above found out about it.
#[derive(Clone)]
pub(crate) struct Piece {
    pub(crate) record: Record,
    /// The digest of `record.bytes`, once somebody has paid for it.
    pub(crate) digest: Option<Digest>,
    pub(crate) origin: Origin,
}

/// Where a piece comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A record as it was saved.
    Saver,
    /// A layer made it from a record.
    Layer,
}

impl Piece {
    pub(crate) fn new(record: Record) -> Self {
        Self {
            record,
            digest: None,
            origin: Origin::Saver,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.record.bytes.as_bytes()
    }

    /// The digest of the bytes, computed at most once.
    pub(crate) fn digest(&mut self) -> Digest {
        *self
            .digest
            .get_or_insert_with(|| Digest::of(self.record.bytes.as_bytes()))
    }
}

/// A layer of the stack. It owns what is below it.
pub(crate) trait Layer: Send + Sync {
    /// Takes a piece in.
    fn save(&self, piece: Piece) -> Result<Box<dyn Held>, StoreError>;

    /// Bytes that a save of this piece would add to what the base keeps.
    fn quote(&self, piece: Piece) -> Result<usize, StoreError>;

    /// Appends this layer's account and those below it; the base fills in the sums.
    fn report(&self, report: &mut Report);
}

/// Fails when `bytes` are not those of which `digest` was taken.
pub(crate) fn verify(
    bytes: Arc<dyn SharedBytes>,
    digest: Digest,
    label: &'static str,
    layer: &'static str,
) -> Result<Arc<dyn SharedBytes>, StoreError> {
    let found = bytes.as_bytes();
    if Digest::of(found) == digest {
        Ok(bytes)
    } else {
        Err(StoreError::Corrupt {
            label,
            layer,
            bytes: found.len(),
        })
    }
}

/// The part of [`Held`] that what holds one piece leaves to that piece.
macro_rules! below {
    () => {
        fn kept_bytes(&self) -> usize {
            self.held.kept_bytes()
        }

        fn warm(&self) {
            self.held.warm();
        }

        fn gathers(&self) -> bool {
            self.held.gathers()
        }
    };
}
pub(crate) use below;
