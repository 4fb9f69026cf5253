//! A whole file of palettized matrices, and of tensors beside them that are not.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{serialize, Dtype, SafeTensors};

use crate::entries::Entry;
use crate::error::check_len;
use crate::palette::{read_f32, write_f32};
use crate::{read, EntryBytes, EntryView, FormatMetadata, PaletteError, PalettizedMatrix};

/// The files that this process has begun to write.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// A tensor that is not palettized, in f32.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlainTensor {
    /// Lengths of the axes, outermost first.
    pub shape: Vec<usize>,
    /// The numbers, row-major.
    pub numbers: Vec<f32>,
}

/// What a model's file holds, in memory: of models that are too large for that read the entries in place, with [`read`].
///
/// ```
/// use edkm_palette::{PaletteFile, PaletteSpec, PalettizedMatrix, PlainTensor};
///
/// let matrix = PalettizedMatrix::pack(2, 4, PaletteSpec::new(1), &[-1.0, 1.0], &[0, 1, 1, 0, 1, 1, 0, 0], None)?;
/// let mut file = PaletteFile::default();
/// file.matrices.insert("0.weight".to_owned(), matrix);
/// file.plain.insert("0.bias".to_owned(), PlainTensor { shape: vec![2], numbers: vec![0.5, -0.5] });
/// let read = PaletteFile::from_bytes(&file.to_bytes()?)?;
/// let mut y = [0.0; 2];
/// read.matrices["0.weight"].matvec(&[1.0, 2.0, 3.0, 4.0], &mut y)?;
/// assert_eq!(y, [0.0, -4.0]);
/// assert_eq!(read.plain, file.plain);
/// # Ok::<(), edkm_palette::PaletteError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct PaletteFile {
    /// The palettized matrices, by name.
    pub matrices: BTreeMap<String, PalettizedMatrix>,
    /// All other tensors, by name.
    pub plain: BTreeMap<String, PlainTensor>,
}

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system does not let it be.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What is in it, or was to be.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PaletteError,
    },
}

impl PaletteFile {
    /// A safetensors file of all of it; the same contents give the same bytes.
    ///
    /// # Errors
    /// A tensor whose shape has another number of numbers, two entries of one name.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PaletteError> {
        let mut metadata = FormatMetadata::new();
        let mut entries = Vec::new();
        for (name, matrix) in &self.matrices {
            metadata.insert(name, matrix);
            entries.extend(matrix.to_entries(name));
        }
        for (name, PlainTensor { shape, numbers }) in &self.plain {
            let len = shape.iter().try_fold(1usize, |len, &axis| len.checked_mul(axis));
            check_len("it", len.unwrap_or(usize::MAX), numbers.len()).map_err(|error| error.in_tensor(name))?;
            entries.push(Entry {
                name: name.clone(),
                dtype: Dtype::F32,
                shape: shape.clone(),
                bytes: write_f32(numbers).into(),
            });
        }
        let mut names = BTreeSet::new();
        if let Some(entry) = entries.iter().find(|entry| !names.insert(&entry.name)) {
            return Err(PaletteError::SameEntry {
                entry: entry.name.clone(),
            });
        }
        let named = entries.iter().map(|entry| (&entry.name, entry));
        serialize(named, Some(metadata.to_map()?)).map_err(|error| PaletteError::File {
            reason: error.to_string(),
        })
    }

    /// What is in the bytes of such a file. Tensors in 16 bits are widened.
    ///
    /// # Errors
    /// Bytes that are no safetensors file with palettized tensors; those of [`read`]; a tensor that is not palettized and not of floats.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PaletteError> {
        let malformed = |error: safetensors::SafeTensorError| PaletteError::File {
            reason: error.to_string(),
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(malformed)?;
        let format = FormatMetadata::from_map(header.metadata().as_ref().unwrap_or(&Default::default()))?;
        let entry = |name: &str| {
            let view = tensors.tensor(name).ok()?;
            Some(EntryView {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: EntryBytes::Copied(view.data()),
            })
        };
        let mut file = Self::default();
        let mut of_matrices = BTreeSet::new();
        for (name, _) in format.tensors() {
            let matrix = read(name, &format, entry)?;
            of_matrices.extend(matrix.to_entries(name).into_iter().map(|entry| entry.name));
            file.matrices.insert(name.to_owned(), matrix);
        }
        for (name, view) in tensors.iter() {
            if !of_matrices.contains(name) {
                file.plain.insert(name.to_owned(), plain(name, &view)?);
            }
        }
        Ok(file)
    }

    /// Writes the file, beside and renamed: one that is there is replaced when the new one is whole.
    ///
    /// # Errors
    /// Those of [`to_bytes`](Self::to_bytes); a system that does not write.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        let path = path.as_ref();
        let bytes = self.to_bytes().map_err(|source| content(path, source))?;
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        // of its own for each that is written: two threads may save one file
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        name.push(format!(".{}-{number}.part", std::process::id()));
        let beside = path.with_file_name(name);
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&beside, path)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&beside);
            FileError::Io {
                action: "write",
                path: path.to_owned(),
                source,
            }
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// A system that does not read; those of [`from_bytes`](Self::from_bytes).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| FileError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::from_bytes(&bytes).map_err(|source| content(path, source))
    }
}

fn content(path: &Path, source: PaletteError) -> FileError {
    FileError::Content {
        path: path.to_owned(),
        source,
    }
}

fn plain(name: &str, view: &TensorView<'_>) -> Result<PlainTensor, PaletteError> {
    let halves = |widen: fn(u16) -> f32| {
        let words = view.data().chunks_exact(2);
        words
            .map(|word| widen(u16::from_le_bytes([word[0], word[1]])))
            .collect()
    };
    let numbers = match view.dtype() {
        Dtype::F32 => read_f32(view.data()),
        Dtype::F16 => halves(|bits| f16::from_bits(bits).to_f32()),
        Dtype::BF16 => halves(|bits| bf16::from_bits(bits).to_f32()),
        got => {
            return Err(PaletteError::Dtype {
                entry: name.to_owned(),
                expected: Dtype::F32,
                got,
            })
        }
    };
    Ok(PlainTensor {
        shape: view.shape().to_vec(),
        numbers,
    })
}
