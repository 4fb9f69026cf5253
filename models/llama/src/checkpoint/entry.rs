//! Tensors on their way into a file.

use std::{borrow::Cow, fmt, io::Write, path::Path};

use safetensors::Dtype;

use super::{
    float::{self, FloatDtype},
    header::HeaderProblem,
};
use crate::LlamaError;

/// A tensor to be written.
pub struct TensorEntry<'a> {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    content: Content<'a>,
}

enum Content<'a> {
    Bytes(Cow<'a, [u8]>),
    Values(&'a [f32], FloatDtype),
    LaterValues(Box<dyn FnOnce() -> Result<Vec<f32>, LlamaError> + 'a>, FloatDtype),
    Later(Box<dyn FnOnce() -> Result<Cow<'a, [u8]>, LlamaError> + 'a>),
}

impl<'a> TensorEntry<'a> {
    /// A tensor of any type, from its row-major little-endian bytes.
    pub fn bytes(
        name: impl Into<String>,
        dtype: Dtype,
        shape: impl Into<Vec<usize>>,
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        Self {
            name: name.into(),
            dtype,
            shape: shape.into(),
            content: Content::Bytes(bytes.into()),
        }
    }

    /// Weights, rounded to `dtype` when their turn comes; each must be finite, also after the rounding.
    pub fn values(name: impl Into<String>, shape: impl Into<Vec<usize>>, values: &'a [f32], dtype: FloatDtype) -> Self {
        let content = Content::Values(values, dtype);
        Self {
            name: name.into(),
            dtype: dtype.safetensors(),
            shape: shape.into(),
            content,
        }
    }

    /// A tensor whose bytes are made when their turn comes and dropped behind it, so that a model can pass through
    /// with the memory of its largest tensor.
    pub fn later(
        name: impl Into<String>,
        dtype: Dtype,
        shape: impl Into<Vec<usize>>,
        make: impl FnOnce() -> Result<Cow<'a, [u8]>, LlamaError> + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            dtype,
            shape: shape.into(),
            content: Content::Later(Box::new(make)),
        }
    }

    /// [`later`](Self::later) for weights, which are rounded to `dtype` as by [`values`](Self::values).
    pub fn later_values(
        name: impl Into<String>,
        shape: impl Into<Vec<usize>>,
        dtype: FloatDtype,
        make: impl FnOnce() -> Result<Vec<f32>, LlamaError> + 'a,
    ) -> Self {
        let content = Content::LaterValues(Box::new(make), dtype);
        Self {
            name: name.into(),
            dtype: dtype.safetensors(),
            shape: shape.into(),
            content,
        }
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that type and shape make.
    pub(super) fn size(&self) -> Result<u64, HeaderProblem> {
        let overflow = || HeaderProblem::Overflow {
            name: self.name.clone(),
            shape: self.shape.clone(),
        };
        let elements = self.shape.iter().try_fold(1u64, |n, &axis| n.checked_mul(axis as u64));
        let bits = elements
            .and_then(|n| n.checked_mul(self.dtype.bitsize() as u64))
            .ok_or_else(overflow)?;
        match bits % 8 {
            0 => Ok(bits / 8),
            _ => Err(HeaderProblem::PartialByte {
                name: self.name.clone(),
            }),
        }
    }

    /// Makes the bytes, checks their number and writes them; `path` is for messages.
    pub(super) fn write(self, out: &mut dyn Write, size: u64, path: &Path) -> Result<(), LlamaError> {
        let values;
        let bytes = match self.content {
            Content::Bytes(bytes) => bytes,
            Content::Values(values, dtype) => float::encode(&self.name, values, dtype)?,
            Content::Later(make) => make()?,
            Content::LaterValues(make, dtype) => {
                values = make()?;
                float::encode(&self.name, &values, dtype)?
            }
        };
        if bytes.len() as u64 != size {
            return Err(LlamaError::WrongLength {
                name: self.name,
                expected: size,
                got: bytes.len() as u64,
            });
        }
        out.write_all(&bytes)
            .map_err(|source| LlamaError::io("write", path, source))
    }
}

impl fmt::Debug for TensorEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorEntry({:?}, {:?}, {:?})", self.name, self.dtype, self.shape)
    }
}

impl<'a> From<edkm_palette::Entry<'a>> for TensorEntry<'a> {
    fn from(entry: edkm_palette::Entry<'a>) -> Self {
        Self::bytes(entry.name, entry.dtype, entry.shape, entry.bytes)
    }
}
