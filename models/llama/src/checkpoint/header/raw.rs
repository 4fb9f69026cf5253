//! The JSON of a header, with what it may grow to bounded while it is parsed.

use std::{collections::BTreeMap, fmt};

use safetensors::Dtype;
use serde::de::{
    value::StrDeserializer, Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::json::duplicate_key;

/// The most tensors in a file; a hostile header of 16 MiB would list a third of a million.
const MAX_TENSORS: usize = 100_000;

/// The most axes of a tensor.
const MAX_AXES: usize = 8;

/// The longest name of a tensor or key of metadata, in bytes. Names are repeated in messages and lists.
const MAX_NAME: usize = 1024;

/// A name of bounded length.
fn name_of<'de, A: MapAccess<'de>>(entries: &mut A) -> Result<Option<String>, A::Error> {
    match entries.next_key::<String>()? {
        Some(name) if name.len() > MAX_NAME => Err(A::Error::custom(format!(
            "a name of {} bytes, more than {MAX_NAME}",
            name.len()
        ))),
        name => Ok(name),
    }
}

/// The header as it stands in the file, of the right types but not checked.
#[derive(Default)]
pub(super) struct RawHeader {
    pub(super) tensors: BTreeMap<String, RawTensor>,
    pub(super) metadata: BTreeMap<String, String>,
}

pub(super) struct RawTensor {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) offsets: (u64, u64),
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
                while let Some(name) = name_of(&mut entries)? {
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
pub(in crate::checkpoint) struct Unique(pub(in crate::checkpoint) BTreeMap<String, String>);

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
                while let Some(key) = name_of(&mut entries)? {
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
