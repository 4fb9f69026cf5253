//! The header of a safetensors file: where each tensor lies, checked before it is used.
//!
//! The rules are those of the crate `safetensors` (the tests compare with it) and some it does not have: no key twice, a
//! smaller cap on the header, on the number of tensors and of axes. Faults are told with the tensor's name.

mod problem;
mod raw;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, ops::Range};

use safetensors::Dtype;

pub use self::problem::HeaderProblem;
pub(super) use self::raw::Unique;
use self::raw::{RawHeader, RawTensor};
use crate::error::shortened;

/// The most bytes of header that are read. A model of 400 billion parameters has 200 KB.
pub(super) const HEADER_LIMIT: u64 = 16 << 20;

/// Bytes before the header: its length as a little-endian u64.
pub(super) const PREFIX: u64 = 8;

/// Type, shape and place of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Axes, outermost first.
    pub shape: Vec<usize>,
    /// Bytes from the start of the file.
    pub(super) range: Range<u64>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn len(&self) -> usize {
        // Does not overflow: checked when the header was read.
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// A checked header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// The length of the header in a file of `length` bytes, from the first eight of them; it is safe to allocate.
pub(super) fn checked_header_length(prefix: [u8; PREFIX as usize], length: u64) -> Result<u64, HeaderProblem> {
    let header = u64::from_le_bytes(prefix);
    if header > HEADER_LIMIT {
        return Err(HeaderProblem::TooLarge {
            header,
            limit: HEADER_LIMIT,
        });
    }
    if header + PREFIX > length {
        return Err(HeaderProblem::Truncated { header, length });
    }
    Ok(header)
}

impl Header {
    /// Parses the header's bytes and checks that its tensors lie in the file back to back, from the header to the end.
    pub(super) fn parse(header: &[u8], file_length: u64) -> Result<Self, HeaderProblem> {
        let raw: RawHeader =
            serde_json::from_slice(header).map_err(|e| HeaderProblem::Json { detail: shortened(e) })?;
        let mut by_offset: Vec<(&String, &RawTensor)> = raw.tensors.iter().collect();
        by_offset.sort_by_key(|(_, tensor)| tensor.offsets);

        let base = PREFIX + header.len() as u64;
        let mut next = 0;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in by_offset {
            let (start, end) = tensor.offsets;
            if start != next || end < start {
                return Err(HeaderProblem::Offsets {
                    name: name.clone(),
                    start,
                    end,
                    expected: next,
                });
            }
            let expected = tensor.bytes(name)?;
            if end - start != expected {
                return Err(HeaderProblem::Size {
                    name: name.clone(),
                    expected,
                    got: end - start,
                });
            }
            let needed = base.checked_add(end).ok_or_else(|| tensor.overflow(name))?;
            if needed > file_length {
                return Err(HeaderProblem::TensorTruncated {
                    name: name.clone(),
                    needed,
                    length: file_length,
                });
            }
            next = end;
            let range = base + start..needed;
            tensors.insert(
                name.clone(),
                TensorInfo {
                    dtype: tensor.dtype,
                    shape: tensor.shape.clone(),
                    range,
                },
            );
        }
        match file_length - base - next {
            0 => Ok(Self {
                tensors,
                metadata: raw.metadata,
            }),
            extra => Err(HeaderProblem::Trailing { extra }),
        }
    }
}

impl RawTensor {
    fn overflow(&self, name: &str) -> HeaderProblem {
        HeaderProblem::Overflow {
            name: name.to_owned(),
            shape: self.shape.clone(),
        }
    }

    fn bytes(&self, name: &str) -> Result<u64, HeaderProblem> {
        // In `usize`, so that the number of elements is one in memory as well. An axis of zero does not excuse the rest.
        let elements = self.shape.iter().try_fold(1usize, |n, &axis| n.checked_mul(axis));
        let bits = elements
            .and_then(|n| n.checked_mul(self.dtype.bitsize()))
            .ok_or_else(|| self.overflow(name))?;
        if bits % 8 != 0 {
            return Err(HeaderProblem::PartialByte { name: name.to_owned() });
        }
        Ok(bits as u64 / 8)
    }
}
