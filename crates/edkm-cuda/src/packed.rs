//! Products with palettized matrices from their packed words, as `edkm_palette::PalettizedMatrix`: the same bits.
#![allow(unsafe_code)]

use edkm_palette::{PalettizedMatrix, TILE_ROWS};

use crate::runtime::blocks;
use crate::Argument::{Address, Size};
use crate::{check, Array, Runtime, Slice, SliceMut};

/// Rows and indices of a row that a block unpacks at once: as in `cuda/packed.cu`.
const UNPACKED_AT_ONCE: [usize; 2] = [8, 32];

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
        check::shape(
            "words [tiles, words of a row, 16]",
            words.len(),
            [tiles, words_per_row, TILE_ROWS],
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

    /// Bits of an index.
    pub(crate) fn bits(&self) -> usize {
        self.bits
    }

    /// Numbers that share an index.
    pub(crate) fn vector(&self) -> usize {
        self.vector
    }

    /// Bytes of the packed words, the palettes and the factors of rows.
    pub fn size_bytes(&self) -> usize {
        let factors = self.row_scales.as_ref().map_or(0, |factors| factors.as_slice().len());
        (self.words.as_slice().len() + self.palettes.as_slice().len() + factors) * 4
    }

    /// Rows of W from `first` on, unpacked, with the bits of `PalettizedMatrix::dequantize_rows`. `out [rows, cols]`.
    ///
    /// # Errors
    /// The runtime's.
    ///
    /// # Panics
    /// If there are not so many rows.
    pub fn unpack(&self, runtime: &R, first: usize, out: SliceMut<'_, f32>) -> Result<(), R::Error> {
        let count = check::rows("out [rows, cols]", out.len(), self.cols);
        assert!(
            first + count <= self.rows,
            "rows {first}..{} of {}",
            first + count,
            self.rows
        );
        self.rows_into(runtime, None, first, count, out)
    }

    /// `out[n]` = row `ids[n]` of W, as an embedding has it; NaN for a row that is not there. `ids [N]`, `out [N, cols]`.
    ///
    /// # Errors
    /// The runtime's.
    pub fn gather(&self, runtime: &R, ids: Slice<'_, u32>, out: SliceMut<'_, f32>) -> Result<(), R::Error> {
        check::shape("out [N, cols]", out.len(), [ids.len(), self.cols]);
        self.rows_into(runtime, Some(ids), 0, ids.len(), out)
    }

    fn rows_into(
        &self,
        runtime: &R,
        ids: Option<Slice<'_, u32>>,
        first: usize,
        count: usize,
        mut out: SliceMut<'_, f32>,
    ) -> Result<(), R::Error> {
        if count == 0 {
            return Ok(());
        }
        let [rows, indices] = UNPACKED_AT_ONCE;
        let wanted = count.div_ceil(rows) * (self.cols / self.vector).div_ceil(indices);
        let row_scales = self.row_scales.as_ref();
        let arguments = [
            self.words.as_slice().argument(),
            self.palettes.as_slice().argument(),
            row_scales.map_or(Address(0), |scales| scales.as_slice().argument()),
            ids.map_or(Address(0), Slice::argument),
            out.argument(),
            Size(first),
            Size(count),
            Size(self.rows),
            Size(self.cols),
            Size(self.bits),
            Size(self.vector),
            Size(self.group_rows),
            Size(self.group_slots),
            Size(self.words_per_row),
            Size(wanted),
        ];
        // SAFETY: edkm_packed_rows(words, palettes, scales, ids, out, first, count, rows, cols, bits, vector, group_rows, group_slots, words_per_row,
        // blocks) reaches count x cols numbers of out, `count` ids unless they are null, and of rows below `rows` the words, the palette and the
        // factor: what the matrix and the slices hold. A second word is read only where bits of an index lie in it.
        unsafe { runtime.launch("edkm_packed_rows", blocks(wanted), &arguments) }
    }

    /// y = x Wᵀ for M inputs, one of which makes it a matrix-vector product. `x [M, cols]`, `y [M, rows]`. The words are read once an input.
    ///
    /// # Errors
    /// The runtime's.
    pub fn multiply(&self, runtime: &R, x: Slice<'_, f32>, mut y: SliceMut<'_, f32>) -> Result<(), R::Error> {
        let inputs = check::rows("x [M, cols]", x.len(), self.cols);
        check::shape("y [M, rows]", y.len(), [inputs, self.rows]);
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
