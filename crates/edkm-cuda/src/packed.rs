//! Products with palettized matrices from their packed words, as `edkm_palette::PalettizedMatrix`: the same bits.
#![allow(unsafe_code)]

use edkm_palette::{PalettizedMatrix, TILE_ROWS};

use crate::runtime::blocks;
use crate::Argument::{Address, Size};
use crate::{check, Array, Runtime, Slice, SliceMut};

/// A palettized matrix in a device's memory. Memory: its packed words, 4 bytes a number of the palettes, and 4 a row if its rows have factors.
pub struct Packed<R: Runtime> {
    words: Array<R, u32>,
    palettes: Array<R, f32>,
    row_scales: Option<Array<R, f32>>,
    rows: usize,
    cols: usize,
    bits: usize,
    vector: usize,
    group_rows: usize,
    group_slots: usize,
    words_per_row: usize,
    tiles: usize,
}

impl<R: Runtime> Packed<R> {
    /// Copies a matrix to the device.
    ///
    /// # Errors
    /// The runtime's.
    ///
    /// # Panics
    /// If the file that the matrix's words are mapped from has become shorter.
    pub fn new(runtime: &R, matrix: &PalettizedMatrix) -> Result<Self, R::Error> {
        let palettes: Vec<f32> = (0..matrix.groups())
            .flat_map(|group| matrix.palette(group))
            .copied()
            .collect();
        let words = matrix.packed_words();
        let [tiles, words_per_row] = matrix.packed_shape();
        check::len(
            "words [tiles, words of a row, 16]",
            words.len(),
            tiles * words_per_row * TILE_ROWS,
        );
        let spec = matrix.spec();
        Ok(Self {
            words: Array::from_host(runtime, words)?,
            palettes: Array::from_host(runtime, &palettes)?,
            row_scales: match matrix.row_scales() {
                Some(scales) => Some(Array::from_host(runtime, scales)?),
                None => None,
            },
            rows: matrix.rows(),
            cols: matrix.cols(),
            bits: spec.bits.into(),
            vector: spec.vector,
            group_rows: matrix.group_rows(0).len(),
            group_slots: matrix.group_slots(),
            words_per_row,
            tiles,
        })
    }

    /// Output channels.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input channels.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// y = x Wᵀ for M inputs, one of which makes it a matrix-vector product. `x [M, cols]`, `y [M, rows]`. The words are read once an input.
    ///
    /// # Errors
    /// The runtime's.
    pub fn multiply(&self, runtime: &R, x: Slice<'_, f32>, mut y: SliceMut<'_, f32>) -> Result<(), R::Error> {
        let inputs = check::rows("x [M, cols]", x.len(), self.cols);
        check::len("y [M, rows]", y.len(), inputs * self.rows);
        let wanted = self.tiles * inputs;
        if wanted == 0 {
            return Ok(());
        }
        let row_scales = self.row_scales.as_ref();
        let arguments = [
            self.words.as_slice().argument(),
            self.palettes.as_slice().argument(),
            row_scales.map_or(Address(0), |scales| scales.as_slice().argument()),
            x.argument(),
            y.argument(),
            Size(self.rows),
            Size(self.cols),
            Size(self.bits),
            Size(self.vector),
            Size(self.group_rows),
            Size(self.group_slots),
            Size(self.words_per_row),
            Size(self.tiles),
            Size(wanted),
        ];
        // SAFETY: edkm_packed_product(words, palettes, scales, x, y, rows, cols, bits, vector, group_rows, group_slots, words_per_row, tiles, blocks)
        // reaches tiles x words_per_row x 16 words, the palettes of the rows' groups, `rows` of scales unless they are null, and blocks / tiles
        // inputs of `cols` numbers and as many outputs of `rows`: what the matrix and the slices hold. Indices of `bits` bits point into a palette
        // of 2^bits vectors.
        unsafe { runtime.launch("edkm_packed_product", blocks(wanted), &arguments) }
    }
}
