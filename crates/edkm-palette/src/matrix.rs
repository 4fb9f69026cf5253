//! The palettized matrix: making one, reading its weights, products with it.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::check_len;
use crate::kernels::{self, Isa, Source};
use crate::layout::{Layout, TILE_ROWS};
use crate::palette::Palettes;
use crate::row_scales::RowScales;
use crate::tables::Tables;
use crate::words::Words;
use crate::{bits, PaletteError, PaletteSpec};

/// A matrix `W` of `rows` output channels and `cols` input channels, held as packed palette indices.
///
/// `W[r, c] = scale[r] * palette[group(r)][index[r, c / d]][c % d]`, with the scale left out where there is none.
/// The words are owned, or borrowed from a shared mapping; cloning copies neither.
#[derive(Clone, Debug)]
pub struct PalettizedMatrix {
    pub(crate) layout: Layout,
    pub(crate) words: Words,
    pub(crate) palettes: Palettes,
    pub(crate) row_scales: Option<RowScales>,
    tables: Tables,
}

impl PalettizedMatrix {
    /// Packs indices and palettes.
    ///
    /// - `palettes`: `[groups, 2^bits, vector]`, finite; rounded to the dtype of `spec`.
    /// - `indices`: `[rows, cols / vector]`, each below `2^bits`.
    /// - `row_scales`: `[rows]`, finite: a factor for each output channel. Kept in bf16 if that holds each of them exactly, else in f32.
    ///
    /// # Errors
    /// A spec out of range, an empty or oversized shape, columns that do not divide, slices of the wrong length, an index
    /// outside the palette, a value that is not finite or that the palette dtype cannot hold.
    pub fn pack(
        rows: usize,
        cols: usize,
        spec: PaletteSpec,
        palettes: &[f32],
        indices: &[u8],
        row_scales: Option<&[f32]>,
    ) -> Result<Self, PaletteError> {
        let layout = Layout::new(rows, cols, spec)?;
        check_len("indices", rows * layout.indices_per_row, indices.len())?;
        if let Some(at) = indices
            .par_iter()
            .position_first(|&index| usize::from(index) >= spec.clusters())
        {
            return Err(PaletteError::Index {
                row: at / layout.indices_per_row,
                position: at % layout.indices_per_row,
                index: indices[at],
                clusters: spec.clusters(),
            });
        }
        let palettes = Palettes::round(&layout, palettes)?;
        let words = Words::owned(bits::pack(&layout, indices));
        Self::from_parts(layout, words, palettes, row_scales.map(RowScales::new))
    }

    /// Puts checked parts together; the caller has matched them to the layout, the scales are checked here.
    pub(crate) fn from_parts(
        layout: Layout,
        words: Words,
        palettes: Palettes,
        row_scales: Option<RowScales>,
    ) -> Result<Self, PaletteError> {
        if let Some(scales) = row_scales.as_ref().map(RowScales::values) {
            check_len("row_scales", layout.rows, scales.len())?;
            if let Some(row) = scales.iter().position(|scale| !scale.is_finite()) {
                return Err(PaletteError::RowScale {
                    row,
                    value: scales[row],
                });
            }
        }
        let tables = Tables::new(&layout, palettes.values());
        Ok(PalettizedMatrix {
            layout,
            words,
            palettes,
            row_scales,
            tables,
        })
    }

    /// Output channels.
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Input channels.
    pub fn cols(&self) -> usize {
        self.layout.cols
    }

    /// How the matrix is palettized.
    pub fn spec(&self) -> &PaletteSpec {
        &self.layout.spec
    }

    /// Number of palettes.
    pub fn groups(&self) -> usize {
        self.layout.groups
    }

    /// Rows of the group `group`; empty for a group that the matrix does not have.
    pub fn group_rows(&self, group: usize) -> Range<usize> {
        let start = group.saturating_mul(self.layout.group_rows).min(self.layout.rows);
        start..start.saturating_add(self.layout.group_rows).min(self.layout.rows)
    }

    /// Values of a palette, `[2^bits, vector]`, as the dtype of the palette holds them.
    /// Empty for a group that the matrix does not have.
    pub fn palette(&self, group: usize) -> &[f32] {
        if group >= self.layout.groups {
            return &[];
        }
        let len = self.layout.spec.palette_len();
        self.palettes
            .values()
            .get(group * len..(group + 1) * len)
            .unwrap_or_default()
    }

    /// The packed words, as in a file: `[tiles, words of a row, 16]`. Empty if the file that they are mapped from has become shorter.
    pub fn packed_words(&self) -> &[u32] {
        self.words.as_lanes().as_flattened()
    }

    /// Tiles of 16 row slots, and words of a row.
    pub fn packed_shape(&self) -> [usize; 2] {
        [self.layout.tiles, self.layout.words_per_row]
    }

    /// Row slots that a group takes in the tiles: its rows, or more where each group begins with a tile.
    pub fn group_slots(&self) -> usize {
        self.layout.group_slots
    }

    /// The factor of each row, where there is one.
    pub fn row_scales(&self) -> Option<&[f32]> {
        self.row_scales.as_ref().map(RowScales::values)
    }

    /// Whether the packed words are borrowed from a shared mapping.
    pub fn is_mapped(&self) -> bool {
        self.words.is_shared()
    }

    /// Unpacks the indices, `[rows, cols / vector]`. Allocates `rows * cols / vector` bytes.
    pub fn indices(&self) -> Vec<u8> {
        let mut indices = vec![0; self.layout.rows * self.layout.indices_per_row];
        let words = self.words.as_lanes();
        indices
            .par_chunks_mut(self.layout.indices_per_row)
            .enumerate()
            .for_each(|(row, out)| {
                let mut reader = bits::RowReader::new(&self.layout, words, row);
                out.iter_mut().for_each(|index| *index = reader.next_index());
            });
        indices
    }

    /// All weights as f32, `[rows, cols]`. Allocates `rows * cols * 4` bytes.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut weights = vec![0.0; self.layout.rows * self.layout.cols];
        let rows_per_job = TILE_ROWS;
        weights
            .par_chunks_mut(rows_per_job * self.layout.cols)
            .enumerate()
            .for_each(|(job, out)| {
                for (offset, out) in out.chunks_exact_mut(self.layout.cols).enumerate() {
                    self.write_row(job * rows_per_job + offset, out);
                }
            });
        weights
    }

    /// Weights of consecutive rows, `[rows.len(), cols]`.
    ///
    /// # Errors
    /// Rows that the matrix does not have; `out` of the wrong length.
    pub fn dequantize_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), PaletteError> {
        if rows.start > rows.end || rows.end > self.layout.rows {
            return Err(PaletteError::Rows {
                start: rows.start,
                end: rows.end,
                rows: self.layout.rows,
            });
        }
        check_len("out", rows.len() * self.layout.cols, out.len())?;
        for (row, out) in rows.zip(out.chunks_exact_mut(self.layout.cols)) {
            self.write_row(row, out);
        }
        Ok(())
    }

    /// Weights of one row, `[cols]`: the lookup of an embedding.
    ///
    /// # Errors
    /// A row that the matrix does not have; `out` of the wrong length.
    pub fn row_into(&self, row: usize, out: &mut [f32]) -> Result<(), PaletteError> {
        if row >= self.layout.rows {
            return Err(PaletteError::Rows {
                start: row,
                end: row.saturating_add(1),
                rows: self.layout.rows,
            });
        }
        check_len("out", self.layout.cols, out.len())?;
        self.write_row(row, out);
        Ok(())
    }

    fn write_row(&self, row: usize, out: &mut [f32]) {
        let vector = self.layout.spec.vector;
        let palette = self.palette(self.layout.group(row));
        let mut reader = bits::RowReader::new(&self.layout, self.words.as_lanes(), row);
        for out in out.chunks_exact_mut(vector) {
            let start = usize::from(reader.next_index()) * vector;
            out.copy_from_slice(&palette[start..start + vector]);
        }
        if let Some(scales) = self.row_scales() {
            out.iter_mut().for_each(|weight| *weight *= scales[row]);
        }
    }

    /// `y = W x`, from the packed words: `x` is `[cols]`, `y` is `[rows]`.
    ///
    /// Each row is summed in the same order on every machine and with any number of threads: blocks of 256 columns, in each
    /// block fused multiply-adds in column order from zero, the blocks added in order; then the row's scale.
    ///
    /// # Errors
    /// Slices of the wrong length.
    pub fn matvec(&self, x: &[f32], y: &mut [f32]) -> Result<(), PaletteError> {
        check_len("x", self.layout.cols, x.len())?;
        check_len("y", self.layout.rows, y.len())?;
        kernels::matvec(&self.source(), Isa::best(), x, y);
        if let Some(scales) = self.row_scales() {
            y.iter_mut().zip(scales).for_each(|(y, scale)| *y *= scale);
        }
        Ok(())
    }

    /// `y = x W^T` for `m` inputs: `x` is `[m, cols]`, `y` is `[m, rows]`.
    ///
    /// Weights are unpacked tile by tile into cache. Row by row the result is bitwise that of [`matvec`](Self::matvec).
    /// Allocates about `m * rows * 4` bytes while it runs.
    ///
    /// # Errors
    /// Slices of the wrong length; sizes that overflow.
    pub fn matmul(&self, x: &[f32], m: usize, y: &mut [f32]) -> Result<(), PaletteError> {
        let (rows, cols) = (self.layout.rows, self.layout.cols);
        let too_large = |what| PaletteError::TooLarge { rows, cols, what };
        check_len("x", m.checked_mul(cols).ok_or(too_large("m * cols"))?, x.len())?;
        check_len("y", m.checked_mul(rows).ok_or(too_large("m * rows"))?, y.len())?;
        match m {
            0 => return Ok(()),
            1 => return self.matvec(x, y),
            _ => kernels::matmul(&self.source(), Isa::best(), x, m, y),
        }
        if let Some(scales) = self.row_scales() {
            for y in y.chunks_exact_mut(rows) {
                y.iter_mut().zip(scales).for_each(|(y, scale)| *y *= scale);
            }
        }
        Ok(())
    }

    /// Bytes of the matrix in a file: packed words with their padding, palettes, palette scales and row scales.
    pub fn size_bytes(&self) -> usize {
        let row_scales = self.row_scales.as_ref().map_or(0, RowScales::size_bytes);
        self.layout.words() * 4 + self.palettes.size_bytes() + row_scales
    }

    /// Bits for each weight, everything in [`size_bytes`](Self::size_bytes) counted.
    pub fn bits_per_weight(&self) -> f64 {
        self.size_bytes() as f64 * 8.0 / (self.layout.rows as f64 * self.layout.cols as f64)
    }

    pub(crate) fn source(&self) -> Source<'_> {
        Source {
            layout: &self.layout,
            words: self.words.as_lanes(),
            tables: &self.tables,
        }
    }
}
