//! One block of a tile: 16 rows by at most 256 columns, unpacked into cache, and products with it.
//!
//! The order of the sum that gives `y[r]` is fixed here for all paths: blocks of [`BLOCK`] columns; in a block fused
//! multiply-adds in column order, beginning at zero; the blocks added in order to a total that begins at zero. Besides being
//! the same everywhere, sums of 256 keep the rounding error of long rows small.

use super::lanes::Lanes;
use crate::layout::{Layout, WordLanes};
use crate::tables::{FloatLanes, TilePalette};

/// Columns of a block.
pub(crate) const BLOCK: usize = 256;

/// Indices that are unpacked together: they fill whole words at every width.
pub(crate) const CHUNK: usize = 32;

/// The weights of a block, column by column.
pub(crate) type Panel = [FloatLanes; BLOCK];

/// A tile and the sizes that its kernels need.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// All words of the tile.
    pub(crate) words: &'a [WordLanes],
    pub(crate) palette: TilePalette<'a>,
    pub(crate) cols: usize,
}

impl<'a> Tile<'a> {
    /// Tile number `tile` of the matrix. Without words, should a mapping have shrunk since it was checked.
    #[inline(always)]
    pub(crate) fn new(layout: &Layout, words: &'a [WordLanes], palette: TilePalette<'a>, tile: usize) -> Self {
        Tile {
            words: words.get(layout.tile_words(tile)).unwrap_or_default(),
            palette,
            cols: layout.cols,
        }
    }
}

/// Unpacks `CHUNK` indices from their `BITS` words; bits above the index are left in.
#[inline(always)]
pub(crate) fn unpack_chunk<L: Lanes, const BITS: usize>(lanes: L, words: &[WordLanes; BITS]) -> [L::Words; CHUNK] {
    std::array::from_fn(|i| {
        let (word, by) = (i * BITS / 32, (i * BITS % 32) as u32);
        let low = lanes.load_words(&words[word]);
        if by as usize + BITS <= 32 {
            lanes.shift(low, by)
        } else {
            lanes.shift_pair(low, lanes.load_words(&words[word + 1]), by)
        }
    })
}

/// The words of chunk `chunk` of a row, zeros past its end.
#[inline(always)]
fn chunk_words<const BITS: usize>(words: &[WordLanes], chunk: usize) -> [WordLanes; BITS] {
    let rest = words.get(chunk * BITS..).unwrap_or_default();
    match rest.first_chunk::<BITS>() {
        Some(full) => *full,
        None => std::array::from_fn(|i| rest.get(i).copied().unwrap_or([0; 16])),
    }
}

/// Unpacks block `block` of a tile into `panel` and returns its columns.
#[inline(always)]
pub(crate) fn unpack_block<'p, L: Lanes, const BITS: usize, const VECTOR: usize>(
    lanes: L,
    tile: Tile<'_>,
    block: usize,
    panel: &'p mut Panel,
) -> &'p [FloatLanes] {
    let len = BLOCK.min(tile.cols - block * BLOCK);
    let first_chunk = block * BLOCK / (CHUNK * VECTOR);
    let (panel, _) = panel.split_at_mut(len);
    for (i, panel) in panel.chunks_mut(CHUNK * VECTOR).enumerate() {
        let indices = unpack_chunk::<L, BITS>(lanes, &chunk_words(tile.words, first_chunk + i));
        match tile.palette {
            TilePalette::Shared(tables) => {
                let table_rows = tables.len() / VECTOR;
                for (panel, &index) in panel.chunks_exact_mut(VECTOR).zip(&indices) {
                    for (column, panel) in panel.iter_mut().enumerate() {
                        let table = &tables[column * table_rows..(column + 1) * table_rows];
                        lanes.store(lanes.lookup::<BITS>(table, index), panel);
                    }
                }
            }
            TilePalette::PerRow(tables, starts) => {
                let table_len = (1usize << BITS).max(16);
                for (panel, &index) in panel.chunks_exact_mut(VECTOR).zip(&indices) {
                    for (column, panel) in panel.iter_mut().enumerate() {
                        let tables = &tables[column * table_len..];
                        lanes.store(lanes.lookup_per_row::<BITS>(tables, &starts, index), panel);
                    }
                }
            }
        }
    }
    panel
}

/// Adds the product of a panel with each of the inputs to the totals.
///
/// `x` begins at the block's first column of the first input; inputs are `stride` numbers apart.
#[inline(always)]
pub(crate) fn multiply_panel<L: Lanes>(
    lanes: L,
    panel: &[FloatLanes],
    x: &[f32],
    stride: usize,
    totals: &mut [FloatLanes],
) {
    const INPUTS: usize = 8;
    let mut groups = totals.chunks_exact_mut(INPUTS);
    let mut first = 0;
    for totals in &mut groups {
        multiply_inputs::<L, INPUTS>(lanes, panel, &x[first * stride..], stride, totals);
        first += INPUTS;
    }
    for total in groups.into_remainder() {
        multiply_inputs::<L, 1>(lanes, panel, &x[first * stride..], stride, std::slice::from_mut(total));
        first += 1;
    }
}

#[inline(always)]
fn multiply_inputs<L: Lanes, const INPUTS: usize>(
    lanes: L,
    panel: &[FloatLanes],
    x: &[f32],
    stride: usize,
    totals: &mut [FloatLanes],
) {
    let x: [&[f32]; INPUTS] = std::array::from_fn(|input| &x[input * stride..][..panel.len()]);
    let mut sums = [lanes.splat(0.0); INPUTS];
    for (column, weights) in panel.iter().enumerate() {
        let weights = lanes.load(weights);
        for (sum, x) in sums.iter_mut().zip(&x) {
            *sum = lanes.fma(weights, lanes.splat(x[column]), *sum);
        }
    }
    for (total, sum) in totals.iter_mut().zip(sums) {
        lanes.store(lanes.add(lanes.load(total), sum), total);
    }
}
