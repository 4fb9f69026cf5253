//! What can be wrong with a palettized matrix or with its entries in a file.

use safetensors::Dtype;

/// Errors of this crate. Everything that a caller or a file can get wrong is one of these; nothing panics.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PaletteError {
    /// Bytes that are no safetensors file, or cannot become one.
    #[error("not a safetensors file: {reason}")]
    File {
        /// What is wrong.
        reason: String,
    },
    /// Two tensors that have an entry of one name in a file.
    #[error("two tensors of the file would have the entry `{entry}`: give one of them another name")]
    SameEntry {
        /// The entry.
        entry: String,
    },
    /// The number of bits is outside 1 to 8.
    #[error("bits must be 1 to 8, got {bits}")]
    Bits {
        /// The number given.
        bits: u8,
    },
    /// The length of the palette's vectors is not one that the layout has.
    #[error("palette vectors must have 1, 2, 4 or 8 columns, got {vector}")]
    Vector {
        /// The number given.
        vector: usize,
    },
    /// A matrix without rows or columns.
    #[error("a palettized matrix needs at least one row and one column, got {rows} x {cols}")]
    Empty {
        /// Rows given.
        rows: usize,
        /// Columns given.
        cols: usize,
    },
    /// The columns do not divide into palette vectors.
    #[error("{cols} columns do not divide into vectors of {vector}; choose a vector length that divides the columns")]
    Columns {
        /// Columns given.
        cols: usize,
        /// Vector length given.
        vector: usize,
    },
    /// A size that this machine cannot address.
    #[error("a {rows} x {cols} matrix is too large: {what} overflows")]
    TooLarge {
        /// Rows given.
        rows: usize,
        /// Columns given.
        cols: usize,
        /// The quantity that overflows.
        what: &'static str,
    },
    /// A slice of the wrong length.
    #[error("{what} must hold {expected} numbers, got {got}")]
    Length {
        /// The argument.
        what: &'static str,
        /// Length needed.
        expected: usize,
        /// Length given.
        got: usize,
    },
    /// An index that no palette entry answers to.
    #[error("index {index} at row {row}, position {position} is outside the palette of {clusters} entries")]
    Index {
        /// Row of the index.
        row: usize,
        /// Position in the row, counted in palette vectors.
        position: usize,
        /// The index.
        index: u8,
        /// Entries of the palette.
        clusters: usize,
    },
    /// A palette entry that is NaN or infinite.
    #[error("palette {group} holds {value} at entry {entry}; every entry must be finite")]
    PaletteValue {
        /// The palette's group.
        group: usize,
        /// Position in the palette, counted in numbers.
        entry: usize,
        /// The value.
        value: f32,
    },
    /// A palette entry that the palette's dtype cannot hold.
    #[error(
        "palette {group} holds {value} at entry {entry}, which {dtype} cannot represent; choose a wider palette dtype"
    )]
    PaletteRange {
        /// The palette's group.
        group: usize,
        /// Position in the palette, counted in numbers.
        entry: usize,
        /// The value.
        value: f32,
        /// The dtype chosen.
        dtype: crate::PaletteDType,
    },
    /// A row scale that is NaN or infinite.
    #[error("the scale of row {row} is {value}; every scale must be finite")]
    RowScale {
        /// The row.
        row: usize,
        /// The value.
        value: f32,
    },
    /// The scale of an int8 palette is NaN, negative, or so large that 127 times it is infinite.
    #[error("the scale of palette {group} is {value}; it must not be negative, and 127 times it must be finite")]
    PaletteScale {
        /// The palette's group.
        group: usize,
        /// The value.
        value: f32,
    },
    /// Rows that the matrix does not have.
    #[error("rows {start}..{end} are outside the matrix of {rows} rows")]
    Rows {
        /// First row asked for.
        start: usize,
        /// End of the rows asked for.
        end: usize,
        /// Rows of the matrix.
        rows: usize,
    },
    /// The file's metadata has no key that says it holds palettized tensors.
    #[error("the metadata has no key `{key}`: this file holds no palettized tensors")]
    NotPalettized {
        /// The missing key.
        key: &'static str,
    },
    /// The file was written in a version of the format that this crate does not read.
    #[error("format version `{version}` is not supported; this program reads version {supported}")]
    Version {
        /// The version in the file.
        version: String,
        /// The version that is read.
        supported: u32,
    },
    /// The metadata of the format does not parse.
    #[error("the metadata under `{key}` is malformed: {reason}")]
    Metadata {
        /// The metadata key.
        key: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// The metadata does not list the tensor.
    #[error("the file's metadata lists no such palettized tensor")]
    Unlisted,
    /// An entry of the tensor is missing from the file.
    #[error("entry `{entry}` is missing from the file")]
    Missing {
        /// Full name of the entry.
        entry: String,
    },
    /// An entry has the wrong dtype.
    #[error("entry `{entry}` has dtype {got:?}, expected {expected:?}")]
    Dtype {
        /// Full name of the entry.
        entry: String,
        /// The dtype needed.
        expected: Dtype,
        /// The dtype found.
        got: Dtype,
    },
    /// An entry has the wrong shape.
    #[error("entry `{entry}` has shape {got:?}, expected {expected:?}")]
    Shape {
        /// Full name of the entry.
        entry: String,
        /// The shape needed.
        expected: Vec<usize>,
        /// The shape found.
        got: Vec<usize>,
    },
    /// An entry does not hold as many bytes as its shape says.
    #[error("entry `{entry}` holds {got} bytes, expected {expected}; the file is damaged or cut short")]
    Bytes {
        /// Full name of the entry.
        entry: String,
        /// Bytes needed.
        expected: usize,
        /// Bytes found.
        got: usize,
    },
    /// The range of an entry lies outside the mapping that it is said to be in.
    #[error("bytes {start}..{end} lie outside the mapping of {len} bytes")]
    Mapping {
        /// Start of the range.
        start: usize,
        /// End of the range.
        end: usize,
        /// Bytes of the mapping.
        len: usize,
    },
    /// Core ML has equal groups only.
    #[error("Core ML needs groups of equal size: {rows} rows do not divide into groups of {group_rows}; palettes of groups that divide the rows can be exported")]
    CoreMlGroups {
        /// Rows of the matrix.
        rows: usize,
        /// Rows of a group.
        group_rows: usize,
    },
    /// One of the other errors, with the name of the tensor that has it.
    #[error("palettized tensor `{name}`: {source}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What is wrong with it.
        source: Box<PaletteError>,
    },
}

impl PaletteError {
    /// The same without the name of the tensor, where that is said beside it.
    pub fn without_tensor(self) -> Self {
        match self {
            PaletteError::Tensor { source, .. } => *source,
            other => other,
        }
    }

    /// The same error with the name of the tensor that it concerns.
    pub fn in_tensor(self, name: &str) -> Self {
        match self {
            named @ PaletteError::Tensor { .. } => named,
            source => PaletteError::Tensor {
                name: name.to_owned(),
                source: Box::new(source),
            },
        }
    }
}

/// Checks the length of a slice argument.
pub(crate) fn check_len(what: &'static str, expected: usize, got: usize) -> Result<(), PaletteError> {
    if expected == got {
        Ok(())
    } else {
        Err(PaletteError::Length { what, expected, got })
    }
}
