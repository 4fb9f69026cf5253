//! Weights by the names of the model, whichever way they are stored.

use std::{cell::RefCell, collections::HashMap, path::Path};

use edkm_palette::{EntryBytes, EntryView, FormatMetadata, PalettizedMatrix, METADATA_KEY};

use super::Checkpoint;
use crate::LlamaError;

/// The most of our own metadata that is parsed, in bytes. A model of 70 billion parameters has 100 KB.
const FORMAT_LIMIT: u64 = 1 << 20;

/// A weight as it is stored.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // A model has some hundred of them, each moved once: a box would save nothing.
pub enum Weight {
    /// Plain numbers, as f32.
    Dense(Vec<f32>),
    /// Palette and packed indices.
    Palettized(PalettizedMatrix),
}

impl Weight {
    /// Plain numbers; allocates them if the weight is palettized.
    pub fn into_dense(self) -> Vec<f32> {
        match self {
            Self::Dense(values) => values,
            Self::Palettized(matrix) => matrix.dequantize(),
        }
    }
}

impl Checkpoint {
    /// What the files say of their palettized tensors; `None` if there are none.
    pub fn format(&self) -> Option<&FormatMetadata> {
        self.format.as_ref()
    }

    /// The names of all weights, sorted: a palettized one is a single weight, not the entries it is stored in.
    pub fn weight_names(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<&str> = self.names().filter(|name| !self.is_part(name)).collect();
        names.extend(
            self.format()
                .into_iter()
                .flat_map(|format| format.tensors().map(|(name, _)| name)),
        );
        names.sort_unstable();
        names.into_iter()
    }

    /// The shape of a weight, dense or palettized.
    pub fn weight_shape(&self, name: &str) -> Option<Vec<usize>> {
        match self.format().and_then(|format| format.get(name)) {
            Some(info) => Some(info.shape.to_vec()),
            None => self.info(name).map(|info| info.shape.clone()),
        }
    }

    /// Whether a weight is stored as palette and indices.
    pub fn is_palettized(&self, name: &str) -> bool {
        self.format().is_some_and(|format| format.get(name).is_some())
    }

    /// A weight of the expected shape as it is stored: dense ones are read, palettized ones used in place with
    /// [`Access::Map`](super::Access::Map).
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32) and [`palettized`](Self::palettized).
    pub fn weight(&self, name: &str, expected_shape: &[usize]) -> Result<Weight, LlamaError> {
        if !self.is_palettized(name) {
            return self.read_f32(name, expected_shape).map(Weight::Dense);
        }
        let matrix = self.palettized(name)?;
        let got = vec![matrix.rows(), matrix.cols()];
        if got == expected_shape {
            return Ok(Weight::Palettized(matrix));
        }
        let (path, expected) = (self.path().to_owned(), expected_shape.to_vec());
        Err(LlamaError::Shape {
            path,
            name: name.to_owned(),
            expected,
            got,
        })
    }

    /// A palettized weight. With [`Access::Map`](super::Access::Map) its indices stay in the file.
    ///
    /// # Errors
    /// [`LlamaError::NoTensor`] if no such weight is palettized, [`LlamaError::Palette`] if an entry is missing or wrong.
    pub fn palettized(&self, name: &str) -> Result<PalettizedMatrix, LlamaError> {
        let path = || self.place_of(name).to_owned();
        let format = self.format().filter(|format| format.get(name).is_some());
        let format = format.ok_or_else(|| LlamaError::NoTensor {
            path: path(),
            name: name.to_owned(),
        })?;
        // The lookup can only say that an entry is not there; why it could not be had is told from here.
        let failure = RefCell::new(None);
        let lookup = |entry: &str| {
            self.info(entry)?;
            match self.raw(entry) {
                Ok(raw) => Some(EntryView {
                    dtype: raw.dtype,
                    shape: raw.shape,
                    bytes: EntryBytes::Shared(raw.bytes),
                }),
                Err(error) => {
                    failure.replace(Some(error));
                    None
                }
            }
        };
        let matrix = edkm_palette::read(name, format, lookup);
        match failure.into_inner() {
            Some(error) => Err(error),
            None => matrix.map_err(|source| LlamaError::Palette { path: path(), source }),
        }
    }

    /// Reads the description of palettized tensors out of the metadata.
    pub(super) fn with_format(mut self) -> Result<Self, LlamaError> {
        let Some(text) = self.metadata().get(METADATA_KEY) else {
            return Ok(self);
        };
        if text.len() as u64 > FORMAT_LIMIT {
            let (bytes, limit) = (text.len() as u64, FORMAT_LIMIT);
            return Err(LlamaError::TooLarge {
                path: self.path,
                what: "metadata",
                bytes,
                limit,
            });
        }
        let map = HashMap::from([(METADATA_KEY.to_owned(), text.clone())]);
        let format = FormatMetadata::from_map(&map);
        self.format = Some(format.map_err(|source| LlamaError::Palette {
            path: self.path.clone(),
            source,
        })?);
        Ok(self)
    }

    /// The file that holds the parts of a palettized weight; that of any part, should one be missing, or the folder.
    fn place_of(&self, name: &str) -> &Path {
        let part = |entry: &&String| entry.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        let file = self
            .tensors
            .range(name.to_owned()..)
            .map(|(entry, file)| (entry, *file));
        let found = file
            .take_while(|(entry, _)| entry.starts_with(name))
            .find(|(entry, _)| part(entry));
        found.map_or(self.path(), |(_, file)| self.files[file].path())
    }

    /// Whether an entry is a part of a palettized weight: the name of one with a suffix.
    fn is_part(&self, entry: &str) -> bool {
        entry.rsplit_once('.').is_some_and(|(name, _)| self.is_palettized(name))
    }
}

#[cfg(test)]
mod tests;
