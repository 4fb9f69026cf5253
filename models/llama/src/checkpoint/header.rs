//! The header of a safetensors file: where each tensor lies, checked before it is used.
//!
//! The rules are those of the crate `safetensors` (the tests compare with it) and some it does not have: no key twice, a
//! smaller cap on the header, on the number of tensors and of axes. Faults are told with the tensor's name.

use std::{collections::BTreeMap, fmt, ops::Range};

use safetensors::Dtype;
use serde::de::{
    value::StrDeserializer, Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::json::duplicate_key;

/// The most bytes of header that are read. A model of 400 billion parameters has 200 KB.
pub(super) const HEADER_LIMIT: u64 = 16 << 20;

/// The most tensors in a file; a hostile header of 16 MiB would list a third of a million.
const MAX_TENSORS: usize = 100_000;

/// The most axes of a tensor.
const MAX_AXES: usize = 8;

/// Bytes before the header: its length as a little-endian u64.
pub(super) const PREFIX: u64 = 8;

/// What is wrong with the header of a safetensors file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderProblem {
    /// The file is too short for the length of a header.
    #[error("truncated: {length} bytes are too few for a safetensors file; copy or download it again")]
    NoPrefix {
        /// Length of the file.
        length: u64,
    },
    /// The header would end beyond the file.
    #[error("truncated or not safetensors: the header takes {header} bytes, the file has {length}; copy or download it again")]
    Truncated {
        /// Length of the header.
        header: u64,
        /// Length of the file.
        length: u64,
    },
    /// The header is larger than any that is read.
    #[error("not safetensors: a header of {header} bytes, more than the {limit} that are read")]
    TooLarge {
        /// Length of the header.
        header: u64,
        /// The most that is read.
        limit: u64,
    },
    /// The header is not JSON of the expected form.
    #[error("invalid header: {detail}")]
    Json {
        /// The fault with line and column.
        detail: String,
    },
    /// The size of a tensor is beyond what can be addressed.
    #[error("the size of {name:?} with shape {shape:?} overflows")]
    Overflow {
        /// The tensor.
        name: String,
        /// Its axes.
        shape: Vec<usize>,
    },
    /// Offsets do not hold what type and shape say.
    #[error("{name:?} takes {expected} bytes by its type and shape, {got} by its offsets")]
    Size {
        /// The tensor.
        name: String,
        /// Bytes by type and shape.
        expected: u64,
        /// Bytes by offsets.
        got: u64,
    },
    /// A tensor whose elements do not fill whole bytes.
    #[error("{name:?} does not fill whole bytes")]
    PartialByte {
        /// The tensor.
        name: String,
    },
    /// A tensor that begins before the one ahead of it ends, or leaves a gap, or ends before it begins.
    #[error("{name:?} has offsets {start} to {end}; it must begin where the tensor ahead of it ends, at {expected}")]
    Offsets {
        /// The tensor.
        name: String,
        /// Its first byte.
        start: u64,
        /// The byte behind it.
        end: u64,
        /// Where it must begin.
        expected: u64,
    },
    /// A tensor that ends beyond the file.
    #[error("truncated: {name:?} ends at byte {needed}, the file at {length}; copy or download it again")]
    TensorTruncated {
        /// The first tensor that is cut.
        name: String,
        /// Where it ends.
        needed: u64,
        /// Length of the file.
        length: u64,
    },
    /// Bytes behind the last tensor.
    #[error("{extra} bytes follow the last tensor; the file is not what its header says")]
    Trailing {
        /// How many.
        extra: u64,
    },
}

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
            serde_json::from_slice(header).map_err(|e| HeaderProblem::Json { detail: e.to_string() })?;
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

/// The header as it stands in the file, of the right types but not checked.
#[derive(Default)]
struct RawHeader {
    tensors: BTreeMap<String, RawTensor>,
    metadata: BTreeMap<String, String>,
}

struct RawTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    offsets: (u64, u64),
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

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader::default();
                let mut has_metadata = false;
                while let Some(name) = entries.next_key::<String>()? {
                    if name == "__metadata__" {
                        if std::mem::replace(&mut has_metadata, true) {
                            return Err(duplicate_key(&name));
                        }
                        header.metadata = entries.next_value::<Unique>()?.0;
                        continue;
                    }
                    if header.tensors.contains_key(&name) {
                        return Err(duplicate_key(&name));
                    }
                    if header.tensors.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    }
                    let tensor = entries
                        .next_value()
                        .map_err(|e| A::Error::custom(format!("{name:?}: {e}")))?;
                    header.tensors.insert(name, tensor);
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

impl<'de> Deserialize<'de> for RawTensor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TensorVisitor;
        impl<'de> Visitor<'de> for TensorVisitor {
            type Value = RawTensor;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<RawTensor, A::Error> {
                let (mut dtype, mut shape, mut offsets) = (None, None, None);
                while let Some(key) = entries.next_key::<String>()? {
                    let again = match key.as_str() {
                        "dtype" => dtype.replace(entries.next_value::<KnownDtype>()?.0).is_some(),
                        "shape" => shape.replace(entries.next_value::<Axes>()?.0).is_some(),
                        "data_offsets" => offsets.replace(entries.next_value::<(u64, u64)>()?).is_some(),
                        _ => entries.next_value::<IgnoredAny>().map(|_| false)?,
                    };
                    if again {
                        return Err(duplicate_key(&key));
                    }
                }
                Ok(RawTensor {
                    dtype: dtype.ok_or_else(|| A::Error::missing_field("dtype"))?,
                    shape: shape.ok_or_else(|| A::Error::missing_field("shape"))?,
                    offsets: offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?,
                })
            }
        }
        deserializer.deserialize_map(TensorVisitor)
    }
}

/// The crate's type, which as it comes would also accept an object with one key.
struct KnownDtype(Dtype);

impl<'de> Deserialize<'de> for KnownDtype {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = Dtype::deserialize(StrDeserializer::<serde::de::value::Error>::new(&name));
        known
            .map(Self)
            .map_err(|_| D::Error::custom(format!("the dtype {name:?} is not known")))
    }
}

/// Axes of a tensor, bounded while they are read: a list can fill the whole header.
struct Axes(Vec<usize>);

impl<'de> Deserialize<'de> for Axes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AxesVisitor;
        impl<'de> Visitor<'de> for AxesVisitor {
            type Value = Axes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_AXES} axes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Axes, A::Error> {
                let mut axes = Vec::new();
                while let Some(axis) = seq.next_element()? {
                    if axes.len() == MAX_AXES {
                        return Err(A::Error::invalid_length(MAX_AXES + 1, &self));
                    }
                    axes.push(axis);
                }
                Ok(Axes(axes))
            }
        }
        deserializer.deserialize_seq(AxesVisitor)
    }
}

/// A map of strings without duplicate keys.
pub(super) struct Unique(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UniqueVisitor;
        impl<'de> Visitor<'de> for UniqueVisitor {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Unique, A::Error> {
                let mut map = BTreeMap::new();
                while let Some(key) = entries.next_key::<String>()? {
                    if map.contains_key(&key) {
                        return Err(duplicate_key(&key));
                    }
                    if map.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} entries")));
                    }
                    map.insert(key, entries.next_value()?);
                }
                Ok(Unique(map))
            }
        }
        deserializer.deserialize_map(UniqueVisitor)
    }
}
