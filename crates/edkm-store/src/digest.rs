//! Content hashes: the key of marshaling and the checksum of every blob.

use xxhash_rust::xxh3::xxh3_128;

/// The xxh3 hash of some bytes, 128 bits. Equal digests and equal lengths are taken for equal bytes: for n different
/// contents in a store the chance of a mistake is about n^2 / 2^129. It does not resist an adversary, who has no say in
/// what a training step saves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(u128);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxh3_128(bytes))
    }

    /// A digest that something else made of a content: comparable with others of its making alone.
    pub const fn from_hash(hash: u128) -> Self {
        Self(hash)
    }
}

impl Digest {
    /// The half of it that names a collective operation.
    pub(crate) fn tag(self) -> u64 {
        self.0 as u64
    }
}
