#![doc = include_str!("../README.md")]

mod bits;
mod coreml;
mod entries;
mod error;
mod file;
mod kernels;
mod layout;
mod matrix;
mod metadata;
mod palette;
mod read;
mod row_scales;
mod spec;
mod tables;
mod words;

pub use coreml::coreml_version_entry;
pub use entries::Entry;
pub use error::PaletteError;
pub use file::{FileError, PaletteFile, PlainTensor};
pub use layout::TILE_ROWS;
pub use matrix::PalettizedMatrix;
pub use metadata::{FormatMetadata, ScaleKind, TensorInfo, FORMAT_VERSION, METADATA_KEY};
pub use read::{read, EntryBytes, EntryView};
pub use spec::{PaletteDType, PaletteSpec};
pub use words::{ByteOwner, SharedBytes};
