//! Checkpoints in Hugging Face layout: folders with safetensors files.
//!
//! A folder comes from anywhere, so nothing in it is believed: header and index are capped, parsed strictly and checked
//! as a whole before a tensor is read, sizes are compared with the file before anything is allocated from them, and an
//! index cannot lead out of its folder. Reading weights to f32 goes by positioned reads and works on files that others
//! change or cut short meanwhile (it ends in an error); only tensors that are used in place are mapped, see [`Access`].
//!
//! Writing goes to a temporary name, is synced and renamed, in an order that content alone decides.

mod convert;
mod entry;
mod export;
mod export_coreml;
mod file;
mod float;
mod header;
mod index;
mod map;
mod open;
mod output;
mod verify;
mod weight;
mod writer;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use self::{
    entry::TensorEntry,
    export::{export_hugging_face, ExportSettings},
    export_coreml::export_coreml_torch,
    float::{FloatDtype, UnknownFloatDtype},
    header::{HeaderProblem, TensorInfo},
    index::IndexProblem,
    map::Access,
    output::{copy_companions, OutputDir, Overwrite, COMPANIONS},
    weight::Weight,
    writer::{write_model, write_safetensors, Sharding, WrittenModel},
};
pub use edkm_palette::SharedBytes;
pub use safetensors::Dtype;

use self::file::TensorFile;
pub(crate) use self::writer::write_json;
use edkm_palette::FormatMetadata;

use crate::LlamaError;

/// The name of an unsharded checkpoint in its folder.
pub const MODEL_FILE: &str = "model.safetensors";

/// The name of the file that lists the shards of a sharded one.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// An opened checkpoint: all headers read and checked, no weight touched yet.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder or file that was opened.
    path: PathBuf,
    files: Vec<TensorFile>,
    /// For each tensor the file that holds it.
    tensors: BTreeMap<String, usize>,
    metadata: BTreeMap<String, String>,
    /// The palettized tensors, if there are any.
    format: Option<FormatMetadata>,
}

/// A tensor as it lies in the file.
#[derive(Clone, Debug)]
pub struct RawTensor {
    /// Element type.
    pub dtype: Dtype,
    /// Axes, outermost first.
    pub shape: Vec<usize>,
    /// The elements, row-major and little-endian. Their alignment is that of the file, which promises nothing.
    pub bytes: SharedBytes,
}

impl Checkpoint {
    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.files[*self.tensors.get(name)?].header().tensors.get(name)
    }

    /// What the files say about themselves (`__metadata__`), all shards together.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Bytes of all files together.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(TensorFile::length).sum()
    }

    /// A tensor's bytes: in place with [`Access::Map`], a copy of their own with [`Access::Read`].
    ///
    /// # Errors
    /// If there is no such tensor, or the file has become shorter since it was opened.
    pub fn raw(&self, name: &str) -> Result<RawTensor, LlamaError> {
        let (file, info) = self.locate(name)?;
        Ok(RawTensor {
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: file.bytes(name, info)?,
        })
    }

    /// A tensor of type f32, f16 or bf16 as f32, row-major.
    ///
    /// Allocates `4 * product(expected_shape)` bytes, after the file was seen to hold the tensor, and one buffer of 512 KiB
    /// for each thread.
    ///
    /// # Errors
    /// If there is no such tensor, its shape is not the expected one or its type another, if a value is NaN or infinite
    /// (the first such is named), or if the file cannot be read.
    pub fn read_f32(&self, name: &str, expected_shape: &[usize]) -> Result<Vec<f32>, LlamaError> {
        let (file, info) = self.locate(name)?;
        let mut values = vec![0.0; file.checked_len(name, info, expected_shape)?];
        convert::read_f32(file, name, info, &mut values)?;
        Ok(values)
    }

    /// [`read_f32`](Self::read_f32) into memory that the caller has.
    ///
    /// # Errors
    /// As there, and if `values` has another length than the shape.
    pub fn read_f32_into(&self, name: &str, expected_shape: &[usize], values: &mut [f32]) -> Result<(), LlamaError> {
        let (file, info) = self.locate(name)?;
        let expected = file.checked_len(name, info, expected_shape)?;
        if values.len() != expected {
            let (expected, got) = (expected as u64 * 4, values.len() as u64 * 4);
            return Err(LlamaError::WrongLength {
                name: name.to_owned(),
                expected,
                got,
            });
        }
        convert::read_f32(file, name, info, values)
    }

    fn locate(&self, name: &str) -> Result<(&TensorFile, &TensorInfo), LlamaError> {
        let missing = || LlamaError::NoTensor {
            path: self.path.clone(),
            name: name.to_owned(),
        };
        let file = &self.files[*self.tensors.get(name).ok_or_else(missing)?];
        let info = file.header().tensors.get(name).ok_or_else(missing)?;
        Ok((file, info))
    }
}

#[cfg(test)]
mod tests;
