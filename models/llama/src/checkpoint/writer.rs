//! Writing safetensors: the same content gives the same bytes, and no file is ever half there.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use safetensors::Dtype;
use serde::{ser::SerializeMap, Serialize, Serializer};
use serde_json::json;

use super::{
    entry::TensorEntry,
    header::{Header, HeaderProblem, HEADER_LIMIT, PREFIX},
    INDEX_FILE, MODEL_FILE,
};
use crate::{
    files::{self, replace_file},
    LlamaError,
};

/// How a model is spread over files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharding {
    /// One `model.safetensors`, however large.
    #[default]
    Single,
    /// As many files as it takes to keep the tensors in each at `max_bytes`, with an index. What fits into one file is
    /// written as one. A tensor that is larger on its own gets a file of its own.
    Shards {
        /// The most bytes of tensors in a file.
        max_bytes: u64,
    },
}

/// What a model came to on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenModel {
    /// The files, in order; the index, if there is one, last.
    pub files: Vec<PathBuf>,
    /// Their bytes together.
    pub bytes: u64,
}

/// Writes one safetensors file and returns its length in bytes.
///
/// The order is that of the reference implementation: the widest types first, then by name, so that every tensor
/// is aligned to its type. The bytes depend on nothing but names, types, shapes, contents and metadata.
///
/// # Errors
/// Two tensors of one name, bytes that do not fit the shape, weights that are not finite, anything that this
/// crate would not read again, and a system that does not write. The file at `path` is then as it was before.
pub fn write_safetensors(
    path: &Path,
    entries: Vec<TensorEntry<'_>>,
    metadata: &BTreeMap<String, String>,
) -> Result<u64, LlamaError> {
    let plan = Plan::new(entries, metadata).map_err(|problem| LlamaError::Header {
        path: path.to_owned(),
        problem,
    })?;
    replace_file(path, |out| plan.write(out, path))
}

/// Writes a model's tensors into a folder, as `model.safetensors` or as shards with an index.
///
/// Each file is written under a temporary name, synced and renamed, the index last. The folder must not hold a model
/// already; to replace one as a whole, build it in an [`OutputDir`](super::OutputDir).
///
/// # Errors
/// As [`write_safetensors`], and [`LlamaError::OutputExists`] if the folder holds a model.
pub fn write_model(
    dir: &Path,
    entries: Vec<TensorEntry<'_>>,
    metadata: &BTreeMap<String, String>,
    sharding: Sharding,
) -> Result<WrittenModel, LlamaError> {
    // Beside an old file of the other kind, a reader would take the old one.
    for name in [MODEL_FILE, INDEX_FILE] {
        if files::exists(&dir.join(name))? {
            return Err(LlamaError::OutputExists { path: dir.to_owned() });
        }
    }
    let shards = split(entries, sharding).map_err(|problem| LlamaError::Header {
        path: dir.join(MODEL_FILE),
        problem,
    })?;
    let count = shards.len();
    let mut written = WrittenModel::default();
    let mut weight_map = BTreeMap::new();
    let mut total_size = 0;
    for (i, Shard { entries, bytes }) in shards.into_iter().enumerate() {
        let file = match count {
            1 => MODEL_FILE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        for entry in &entries {
            if weight_map.insert(entry.name.clone(), file.clone()).is_some() {
                return Err(LlamaError::DuplicateTensor {
                    name: entry.name.clone(),
                });
            }
        }
        let path = dir.join(file);
        written.bytes += write_safetensors(&path, entries, metadata)?;
        written.files.push(path);
        total_size += bytes;
    }
    if count > 1 {
        let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
        let path = dir.join(INDEX_FILE);
        written.bytes += write_json(&path, &index)?;
        written.files.push(path);
    }
    Ok(written)
}

/// Writes readable JSON with a line end, and returns its length.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<u64, LlamaError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| LlamaError::Json {
        path: path.to_owned(),
        detail: e.to_string(),
    })?;
    text.push(b'\n');
    replace_file(path, |out| {
        out.write_all(&text)
            .map_err(|source| LlamaError::io("write", path, source))
    })?;
    Ok(text.len() as u64)
}

#[derive(Default)]
struct Shard<'a> {
    entries: Vec<TensorEntry<'a>>,
    bytes: u64,
}

/// Fills shards in the order of the entries, which keeps a layer together.
fn split(entries: Vec<TensorEntry<'_>>, sharding: Sharding) -> Result<Vec<Shard<'_>>, HeaderProblem> {
    let max_bytes = match sharding {
        Sharding::Single => u64::MAX,
        Sharding::Shards { max_bytes } => max_bytes,
    };
    let mut shards = vec![Shard::default()];
    for entry in entries {
        let size = entry.size()?;
        let last = shards.last_mut().expect("there is one from the start");
        if !last.entries.is_empty() && last.bytes.saturating_add(size) > max_bytes {
            shards.push(Shard {
                bytes: size,
                entries: vec![entry],
            });
        } else {
            last.bytes = last.bytes.saturating_add(size);
            last.entries.push(entry);
        }
    }
    Ok(shards)
}

/// A file whose every byte is decided, apart from the tensors' contents.
struct Plan<'a> {
    /// With their sizes, in the order of the file.
    entries: Vec<(TensorEntry<'a>, u64)>,
    header: Vec<u8>,
    length: u64,
}

impl<'a> Plan<'a> {
    fn new(mut entries: Vec<TensorEntry<'a>>, metadata: &BTreeMap<String, String>) -> Result<Self, HeaderProblem> {
        entries.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        let mut sized = Vec::with_capacity(entries.len());
        let mut end = 0u64;
        for entry in entries {
            let size = entry.size()?;
            let overflow = || HeaderProblem::Overflow {
                name: entry.name.clone(),
                shape: entry.shape.clone(),
            };
            end = end.checked_add(size).ok_or_else(overflow)?;
            sized.push((entry, size));
        }
        let text = HeaderText {
            entries: &sized,
            metadata,
        };
        let mut header = serde_json::to_vec(&text).map_err(|e| HeaderProblem::Json { detail: e.to_string() })?;
        // Spaces up to a multiple of eight keep the tensors behind it aligned.
        header.resize(header.len().next_multiple_of(8), b' ');
        let size = header.len() as u64;
        if size > HEADER_LIMIT {
            return Err(HeaderProblem::TooLarge {
                header: size,
                limit: HEADER_LIMIT,
            });
        }
        let length = PREFIX + size + end;
        // What is not read again is not written: the reader's own checks, on the reader's own terms.
        Header::parse(&header, length)?;
        Ok(Self {
            entries: sized,
            header,
            length,
        })
    }

    fn write(self, out: &mut dyn Write, path: &Path) -> Result<u64, LlamaError> {
        let prefix = (self.header.len() as u64).to_le_bytes();
        for part in [&prefix[..], &self.header] {
            out.write_all(part)
                .map_err(|source| LlamaError::io("write", path, source))?;
        }
        for (entry, size) in self.entries {
            entry.write(out, size, path)?;
        }
        Ok(self.length)
    }
}

struct HeaderText<'a, 'b> {
    entries: &'b [(TensorEntry<'a>, u64)],
    metadata: &'b BTreeMap<String, String>,
}

impl Serialize for HeaderText<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Info<'a> {
            dtype: Dtype,
            shape: &'a [usize],
            data_offsets: (u64, u64),
        }
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry("__metadata__", self.metadata)?;
        }
        let mut start = 0;
        for (entry, size) in self.entries {
            let data_offsets = (start, start + size);
            map.serialize_entry(
                &entry.name,
                &Info {
                    dtype: entry.dtype,
                    shape: &entry.shape,
                    data_offsets,
                },
            )?;
            start += size;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;
