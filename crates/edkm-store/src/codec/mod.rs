//! Codecs: what the compress layer can be given.

mod huffman;
mod plane_codec;
mod planes;

pub use plane_codec::PlaneCodec;

use std::fmt;

/// A lossless codec for the compress layer. [`PlaneCodec`] is the project's own; a user's takes its place by
/// `Store::builder().compress(codec)`.
///
/// What `encode` returned, `decode` must turn into the same bytes; the store compares checksums of both sides, so a codec
/// that errs is an error and not a wrong gradient. A panic in a codec is caught and reported as an error.
pub trait Codec: Send + Sync + 'static {
    /// For errors.
    fn name(&self) -> &'static str;

    /// `bytes` in fewer bytes, or `None` when they do not shrink. They are elements of `element_size` bytes each.
    fn encode(&self, bytes: &[u8], element_size: usize) -> Option<Vec<u8>>;

    /// Fills `out`, which has the length of the original, from what `encode` returned.
    ///
    /// # Errors
    /// `encoded` is not something that `encode` returns for a value of this length.
    fn decode(&self, encoded: &[u8], element_size: usize, out: &mut [u8]) -> Result<(), CodecError>;
}

/// What a decoder found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecError(pub String);

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CodecError {}
