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
///
/// A codec that works in parallel does so in threads of its own: under a layer that keeps a content once, threads that save the same content wait for it, and
/// where those are the threads of the pool that it waits for (a program that goes through its batches with rayon), nobody goes on.
///
/// ```
/// use std::sync::Arc;
/// use edkm_store::{Backend, Codec, CodecError, DType, Record, Store};
///
/// /// Knows nothing but zeros.
/// struct Zeros;
///
/// impl Codec for Zeros {
///     fn name(&self) -> &'static str {
///         "zeros"
///     }
///
///     fn encode(&self, bytes: &[u8], _element_size: usize) -> Option<Vec<u8>> {
///         bytes.iter().all(|&byte| byte == 0).then(Vec::new)
///     }
///
///     fn decode(&self, _encoded: &[u8], _element_size: usize, out: &mut [u8]) -> Result<(), CodecError> {
///         out.fill(0);
///         Ok(())
///     }
/// }
///
/// let store = Store::builder().compress(Zeros).build()?;
/// let ticket = store.save(Record::new(Arc::new(vec![0f32; 1000]), DType::F32, [1000], "dropped"))?;
/// assert_eq!(ticket.kept_bytes(), 0);
/// # Ok::<(), edkm_store::StoreError>(())
/// ```
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
