//! A palettized matrix as entries of a safetensors file.

use std::borrow::Cow;

use safetensors::{Dtype, View};

use crate::layout::TILE_ROWS;
use crate::palette::write_f32;
use crate::PalettizedMatrix;

/// One entry of a safetensors file. `&Entry` is a [`View`], so `safetensors::serialize` takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<'a> {
    /// Full name in the file.
    pub name: String,
    /// Type of its numbers.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers, little-endian.
    pub bytes: Cow<'a, [u8]>,
}

impl View for &Entry<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Suffixes of the names of a tensor's entries.
pub(crate) mod suffix {
    pub(crate) const INDICES: &str = ".indices";
    pub(crate) const PALETTE: &str = ".palette";
    pub(crate) const PALETTE_SCALE: &str = ".palette_scale";
    pub(crate) const ROW_SCALE: &str = ".scale";
}

impl PalettizedMatrix {
    /// The entries of this matrix under the name `name`:
    ///
    /// | entry | dtype | shape |
    /// |---|---|---|
    /// | `<name>.indices` | U32 | `[tiles, words of a row, 16]` |
    /// | `<name>.palette` | the palette dtype | `[groups, 2^bits, vector]` |
    /// | `<name>.palette_scale` | F32 | `[groups]`; int8 palettes only |
    /// | `<name>.scale` | BF16 where that is exact, else F32 | `[rows]`; with row scales only |
    ///
    /// The words are borrowed from the matrix on little-endian machines.
    pub fn to_entries(&self, name: &str) -> Vec<Entry<'_>> {
        let layout = &self.layout;
        let named = |suffix| format!("{name}{suffix}");
        let mut entries = vec![
            Entry {
                name: named(suffix::INDICES),
                dtype: Dtype::U32,
                shape: vec![layout.tiles, layout.words_per_row, TILE_ROWS],
                bytes: self.words.to_bytes(),
            },
            Entry {
                name: named(suffix::PALETTE),
                dtype: layout.spec.palette_dtype.safetensors(),
                shape: vec![layout.groups, layout.spec.clusters(), layout.spec.vector],
                bytes: Cow::Owned(self.palettes.to_bytes()),
            },
        ];
        entries.extend(self.palettes.scales().map(|scales| Entry {
            name: named(suffix::PALETTE_SCALE),
            dtype: Dtype::F32,
            shape: vec![scales.len()],
            bytes: Cow::Owned(write_f32(scales)),
        }));
        entries.extend(self.row_scales.as_ref().map(|scales| Entry {
            name: named(suffix::ROW_SCALE),
            dtype: scales.safetensors(),
            shape: vec![scales.values().len()],
            bytes: Cow::Owned(scales.to_bytes()),
        }));
        entries
    }
}
