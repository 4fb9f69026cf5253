//! The index of a sharded checkpoint: which tensor is in which file.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use serde::Deserialize;

use super::header::Unique;
use crate::{error::shortened, json, LlamaError};

/// The most that is read of an index, in bytes. A model of 400 billion parameters has 100 KB.
const INDEX_LIMIT: u64 = 16 << 20;

/// What is wrong with the index of a sharded checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexProblem {
    /// A file name that is more than a name.
    #[error("{name:?} is said to be in {file:?}; shards are files beside the index, named without a folder")]
    Path {
        /// The tensor.
        name: String,
        /// The file as it is written in the index.
        file: String,
    },
    /// A shard that is not there.
    #[error("the shard {file:?} is missing (it holds {name:?}); copy or download it again")]
    NoShard {
        /// The file.
        file: String,
        /// A tensor in it.
        name: String,
    },
    /// A shard without a tensor that should be in it.
    #[error("{name:?} is not in {file:?}, where the index puts it; do the files belong together?")]
    NotInShard {
        /// The tensor.
        name: String,
        /// The file.
        file: String,
    },
    /// Shards that say different things of the format of the same model.
    #[error("the shards disagree on the metadata {key:?}; do the files belong together?")]
    Metadata {
        /// The key.
        key: String,
    },
    /// No tensor at all.
    #[error("lists no tensors")]
    Empty,
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: Unique,
}

/// Reads an index: tensor to file name, each name a plain one.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>, LlamaError> {
    let RawIndex {
        weight_map: Unique(map),
    } = json::parse(path, &json::read_text(path, INDEX_LIMIT)?)?;
    let fault = |problem| {
        Err(LlamaError::Index {
            path: path.to_owned(),
            problem,
        })
    };
    if map.is_empty() {
        return fault(IndexProblem::Empty);
    }
    match map.iter().find(|(_, file)| !is_plain(file)) {
        Some((name, file)) => fault(IndexProblem::Path {
            name: name.clone(),
            file: shortened(file),
        }),
        None => Ok(map),
    }
}

/// Whether a name stays in its folder on every system: no separators, no parent, no drive.
/// Nor longer than file systems have it.
fn is_plain(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    file.len() <= 255
        && matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
        && !file.contains(['/', '\\', ':', '\0'])
}
