//! Finding and opening the files of a checkpoint.

use std::{
    collections::{btree_map::Entry, BTreeMap},
    path::Path,
};

use edkm_palette::METADATA_KEY;

use super::{
    file::TensorFile,
    index::{self, IndexProblem},
    Access, Checkpoint, INDEX_FILE, MODEL_FILE,
};
use crate::{files, LlamaError};

impl Checkpoint {
    /// Opens the checkpoint in a model folder with [`Access::Map`]: `model.safetensors`, or the shards of
    /// `model.safetensors.index.json`.
    ///
    /// Reads and checks all headers, and no weight. Memory is some multiple of the headers, each capped at 16 MiB.
    ///
    /// # Errors
    /// If a file is missing, truncated or not valid; the message names it and the tensor.
    pub fn open(model_dir: impl AsRef<Path>) -> Result<Self, LlamaError> {
        Self::open_with(model_dir, Access::default())
    }

    /// [`open`](Self::open) with a choice between mapping and reading.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_with(model_dir: impl AsRef<Path>, access: Access) -> Result<Self, LlamaError> {
        let dir = model_dir.as_ref();
        let single = dir.join(MODEL_FILE);
        let index = dir.join(INDEX_FILE);
        if files::exists(&single)? {
            Self::open_file(&single, access).map(|checkpoint| Self {
                path: dir.to_owned(),
                ..checkpoint
            })
        } else if files::exists(&index)? {
            Self::open_shards(dir, &index, access)
        } else {
            let remedy = "give a model folder in Hugging Face layout, with model.safetensors or \
                          model.safetensors.index.json (weights in .bin files must be converted first)";
            Err(LlamaError::Missing { path: single, remedy })
        }
    }

    /// Opens one safetensors file, whatever its name.
    ///
    /// # Errors
    /// If it is missing, truncated or not valid; the message names it and the tensor.
    pub fn open_file(path: impl AsRef<Path>, access: Access) -> Result<Self, LlamaError> {
        let path = path.as_ref();
        let file = TensorFile::open(path, access)?;
        let tensors = file.header().tensors.keys().map(|name| (name.clone(), 0)).collect();
        let metadata = file.header().metadata.clone();
        Self {
            path: path.to_owned(),
            files: vec![file],
            tensors,
            metadata,
            format: None,
        }
        .with_format()
    }

    fn open_shards(dir: &Path, index: &Path, access: Access) -> Result<Self, LlamaError> {
        let fault = |problem| LlamaError::Index {
            path: index.to_owned(),
            problem,
        };
        let mut checkpoint = Self {
            path: dir.to_owned(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
            format: None,
        };
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        for (name, shard) in index::read(index)? {
            let number = match numbers.entry(shard) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    let path = dir.join(new.key());
                    if !files::exists(&path)? {
                        return Err(fault(IndexProblem::NoShard {
                            file: new.key().clone(),
                            name,
                        }));
                    }
                    let file = TensorFile::open(&path, access)?;
                    merge_metadata(&mut checkpoint.metadata, &file.header().metadata).map_err(fault)?;
                    checkpoint.files.push(file);
                    *new.insert(checkpoint.files.len() - 1)
                }
            };
            let file = &checkpoint.files[number];
            if !file.header().tensors.contains_key(&name) {
                let file = file
                    .path()
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                return Err(fault(IndexProblem::NotInShard { name, file }));
            }
            checkpoint.tensors.insert(name, number);
        }
        checkpoint.with_format()
    }
}

/// Adds a shard's metadata. Shards may say different things of themselves, but not of our own format.
fn merge_metadata(all: &mut BTreeMap<String, String>, shard: &BTreeMap<String, String>) -> Result<(), IndexProblem> {
    for (key, value) in shard {
        let known = all.entry(key.clone()).or_insert_with(|| value.clone());
        if known != value && key == METADATA_KEY {
            return Err(IndexProblem::Metadata { key: key.clone() });
        }
    }
    Ok(())
}
