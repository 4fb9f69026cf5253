//! How a matrix is palettized: bits, groups, vectors and the type of the palette's numbers.

use std::fmt;
use std::num::NonZeroUsize;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::PaletteError;

/// Type of the numbers of a palette, in memory of the file. Kernels always compute with their f32 values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PaletteDType {
    /// 32-bit floats: the palette as it was trained.
    #[default]
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Signed bytes and one f32 scale for each palette: value = byte x scale, scale = largest magnitude / 127.
    /// Zero stays exactly zero.
    I8,
}

impl PaletteDType {
    /// The dtype of the entry in a safetensors file.
    pub fn safetensors(self) -> Dtype {
        match self {
            PaletteDType::F32 => Dtype::F32,
            PaletteDType::F16 => Dtype::F16,
            PaletteDType::Bf16 => Dtype::BF16,
            PaletteDType::I8 => Dtype::I8,
        }
    }

    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            PaletteDType::F32 => 4,
            PaletteDType::F16 | PaletteDType::Bf16 => 2,
            PaletteDType::I8 => 1,
        }
    }
}

impl fmt::Display for PaletteDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PaletteDType::F32 => "f32",
            PaletteDType::F16 => "f16",
            PaletteDType::Bf16 => "bf16",
            PaletteDType::I8 => "int8",
        })
    }
}

/// How a matrix of `rows` output channels and `cols` input channels is palettized.
///
/// Fields are plain; [`validate`](Self::validate) runs on every path that makes a matrix from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaletteSpec {
    /// Width of an index, 1 to 8; a palette has `2^bits` entries.
    pub bits: u8,
    /// Rows (output channels) that share a palette; `None`: the whole matrix has one. The last group may be shorter.
    pub group_rows: Option<NonZeroUsize>,
    /// Consecutive columns that one index stands for: 1, 2, 4 or 8.
    pub vector: usize,
    /// Type of the palette's numbers in the file. Values are rounded to it when the matrix is made.
    pub palette_dtype: PaletteDType,
}

impl PaletteSpec {
    /// One f32 palette of single numbers for the whole matrix.
    pub fn new(bits: u8) -> Self {
        PaletteSpec {
            bits,
            group_rows: None,
            vector: 1,
            palette_dtype: PaletteDType::F32,
        }
    }

    /// Entries of a palette: `2^bits`.
    pub fn clusters(&self) -> usize {
        1usize << self.bits.min(8)
    }

    /// Numbers of a palette: entries x vector length.
    pub fn palette_len(&self) -> usize {
        self.clusters().saturating_mul(self.vector)
    }

    /// Groups, that is palettes, of a matrix of `rows` rows.
    pub fn groups(&self, rows: usize) -> usize {
        self.group_rows.map_or(1, |group_rows| rows.div_ceil(group_rows.get()))
    }

    /// Bytes of a matrix of `rows` and `cols` in a file: packed words with their padding, palettes and palette scales; row scales are not in it.
    ///
    /// # Errors
    /// A spec out of range, an empty or oversized shape, columns that do not divide.
    pub fn size_bytes(&self, rows: usize, cols: usize) -> Result<usize, PaletteError> {
        let layout = Layout::new(rows, cols, *self)?;
        let scales = match self.palette_dtype {
            PaletteDType::I8 => layout.groups * 4,
            _ => 0,
        };
        Ok(layout.words() * 4 + layout.palette_len() * self.palette_dtype.size() + scales)
    }

    /// Checks the ranges of the fields.
    ///
    /// # Errors
    /// [`PaletteError::Bits`] and [`PaletteError::Vector`].
    pub fn validate(&self) -> Result<(), PaletteError> {
        if !(1..=8).contains(&self.bits) {
            return Err(PaletteError::Bits { bits: self.bits });
        }
        if !matches!(self.vector, 1 | 2 | 4 | 8) {
            return Err(PaletteError::Vector { vector: self.vector });
        }
        Ok(())
    }
}
