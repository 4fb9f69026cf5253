//! Bytes that several owners share, wherever they lie.

use std::{fmt, ops::Deref, ops::Range, sync::Arc};

use memmap2::Mmap;

/// A range of a mapped file, or of memory, that stays alive as long as someone holds it. Clones are cheap.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Map(Arc<Mmap>),
    Memory(Arc<Vec<u8>>),
}

impl SharedBytes {
    /// The bytes of `range`, or `None` if the map is shorter.
    pub(super) fn mapped(map: &Arc<Mmap>, range: Range<usize>) -> Option<Self> {
        map.get(range.clone())?;
        Some(Self {
            owner: Owner::Map(map.clone()),
            range,
        })
    }

    /// Whether the bytes are those of a file that is mapped, and not a copy.
    pub fn is_mapped(&self) -> bool {
        matches!(self.owner, Owner::Map(_))
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self {
            owner: Owner::Memory(Arc::new(bytes)),
            range,
        }
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.owner {
            Owner::Map(map) => map,
            Owner::Memory(bytes) => bytes,
        };
        &all[self.range.clone()]
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SharedBytes({} bytes, {})",
            self.len(),
            if self.is_mapped() { "mapped" } else { "owned" }
        )
    }
}
