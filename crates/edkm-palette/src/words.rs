//! The packed words of a matrix: owned, or borrowed from a mapped file.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::layout::WordLanes;
use crate::PaletteError;

/// Owner of bytes that several matrices may borrow from, such as a memory map.
pub type ByteOwner = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A range of bytes of a shared owner.
#[derive(Clone)]
pub struct SharedBytes {
    owner: ByteOwner,
    range: Range<usize>,
}

impl SharedBytes {
    /// Bytes `range` of `owner`.
    ///
    /// # Errors
    /// [`PaletteError::Mapping`] when the range lies outside.
    pub fn new(owner: ByteOwner, range: Range<usize>) -> Result<Self, PaletteError> {
        let len = (*owner).as_ref().len();
        if range.start > range.end || range.end > len {
            return Err(PaletteError::Mapping {
                start: range.start,
                end: range.end,
                len,
            });
        }
        Ok(SharedBytes { owner, range })
    }

    /// The bytes. Empty should the owner have become shorter.
    pub fn as_slice(&self) -> &[u8] {
        (*self.owner).as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBytes")
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Packed words, 16 rows side by side.
#[derive(Clone, Debug)]
pub(crate) enum Words {
    Owned(Arc<Vec<u32>>),
    Shared(SharedBytes),
}

impl Words {
    pub(crate) fn owned(words: Vec<u32>) -> Self {
        Words::Owned(Arc::new(words))
    }

    /// Borrows `shared` where its bytes can be read as words in place; copies them where they cannot.
    /// The caller has checked that their number is a multiple of 64.
    pub(crate) fn from_shared(shared: SharedBytes) -> Self {
        let in_place =
            cfg!(target_endian = "little") && bytemuck::try_cast_slice::<u8, WordLanes>(shared.as_slice()).is_ok();
        if in_place {
            Words::Shared(shared)
        } else {
            Words::from_bytes(shared.as_slice())
        }
    }

    /// Copies little-endian bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let words = bytes
            .as_chunks()
            .0
            .iter()
            .map(|&word| u32::from_le_bytes(word))
            .collect();
        Words::owned(words)
    }

    pub(crate) fn as_lanes(&self) -> &[WordLanes] {
        match self {
            Words::Owned(words) => words.as_chunks().0,
            // Checked when made; an owner that changes under us gives no words, which the kernels refuse.
            Words::Shared(shared) => bytemuck::try_cast_slice(shared.as_slice()).unwrap_or_default(),
        }
    }

    /// Little-endian bytes; borrowed where the machine has that order.
    pub(crate) fn to_bytes(&self) -> Cow<'_, [u8]> {
        let words = self.as_lanes().as_flattened();
        if cfg!(target_endian = "little") {
            Cow::Borrowed(bytemuck::cast_slice(words))
        } else {
            Cow::Owned(words.iter().flat_map(|word| word.to_le_bytes()).collect())
        }
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Words::Shared(_))
    }
}
