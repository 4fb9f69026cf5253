//! One block of a tile: 16 rows by at most 256 columns, unpacked into cache, and products with it.
//!
//! The order of the sum that gives `y[r]` is fixed here for all paths: blocks of [`BLOCK`] columns; in a block fused
//! multiply-adds in column order, beginning at zero; the blocks added in order to a total that begins at zero. Besides being
//! the same everywhere, sums of 256 keep the rounding error of long rows small.

use super::lanes::{Job, Lanes};
use crate::layout::{WordLanes, TILE_ROWS};
use crate::tables::{Column, FloatLanes, TilePalettes};

/// Columns of a block.
pub(crate) const BLOCK: usize = 256;

/// Indices that are unpacked together: they fill whole words at every width.
pub(crate) const CHUNK: usize = 32;

/// The weights of a block, column by column.
pub(crate) type Panel = [FloatLanes; BLOCK];

/// A panel of zeros.
pub(crate) const EMPTY_PANEL: Panel = [[0.0; TILE_ROWS]; BLOCK];

/// A tile and the sizes that its kernels need.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// All words of the tile; fewer, should a mapping have shrunk since its length was checked.
    pub(crate) words: &'a [WordLanes],
    pub(crate) palettes: TilePalettes<'a>,
    /// Columns that one index stands for.
    pub(crate) vector: usize,
}

/// Unpacks `len` columns, at most 256, of block `block` of a tile. What follows them in the panel is overwritten.
#[inline(always)]
pub(crate) fn unpack_block<'p, L: Lanes, const BITS: usize>(
    lanes: L,
    tile: Tile<'_>,
    block: usize,
    len: usize,
    panel: &'p mut Panel,
) -> &'p [FloatLanes] {
    let first_chunk = block * BLOCK / (CHUNK * tile.vector);
    let chunks = len.div_ceil(CHUNK * tile.vector);
    for (chunk, panel) in panel.chunks_exact_mut(CHUNK * tile.vector).take(chunks).enumerate() {
        unpack_chunk::<L, BITS>(lanes, tile, first_chunk + chunk, panel);
    }
    &panel[..len]
}

/// Unpacks chunk `chunk` of a tile: 32 indices, zeros past the end of the row, and the columns that they stand for.
#[inline(always)]
pub(crate) fn unpack_chunk<L: Lanes, const BITS: usize>(
    lanes: L,
    tile: Tile<'_>,
    chunk: usize,
    panel: &mut [FloatLanes],
) {
    let rest = tile.words.get(chunk * BITS..).unwrap_or_default();
    let ragged;
    let words = match rest.first_chunk::<BITS>() {
        Some(full) => full,
        None => {
            ragged = std::array::from_fn(|i| rest.get(i).copied().unwrap_or([0; TILE_ROWS]));
            &ragged
        }
    };
    // By number: to cut the panel into vectors would take a division each time.
    for four in 0..panel.len() / (4 * tile.vector) {
        let indices = bits_at::<L, BITS>(lanes, words, four * 4 * BITS, 4 * BITS);
        for number in 0..tile.vector {
            let column = Column {
                vector: tile.vector,
                column: number,
            };
            let weights = lookup_tile::<L, BITS>(lanes, &tile, column, indices);
            for (i, weights) in weights.into_iter().enumerate() {
                lanes.store(weights, &mut panel[(4 * four + i) * tile.vector + number]);
            }
        }
    }
}

/// The numbers in `column` of the entries that four indices choose, each row in its own palette.
#[inline(always)]
pub(crate) fn lookup_tile<L: Lanes, const BITS: usize>(
    lanes: L,
    tile: &Tile<'_>,
    column: Column,
    indices: L::Words,
) -> [L::Floats; 4] {
    let TilePalettes {
        lookup,
        groups,
        first_lanes,
    } = tile.palettes;
    let mut weights = lanes.lookup_four::<BITS>(lookup, column.table(0), indices);
    // A tile that several groups share: each palette in turn for the lanes from its first on.
    for (group, &first_lane) in first_lanes.iter().enumerate().take(groups).skip(1) {
        let others = lanes.lookup_four::<BITS>(lookup, column.table(group), indices);
        for (weights, others) in weights.iter_mut().zip(others) {
            *weights = lanes.choose_from(usize::from(first_lane), *weights, others);
        }
    }
    weights
}

/// `len` bits, at most 32, of each row from bit `start` of the chunk on; what stands above them is left in.
#[inline(always)]
pub(crate) fn bits_at<L: Lanes, const BITS: usize>(
    lanes: L,
    words: &[WordLanes; BITS],
    start: usize,
    len: usize,
) -> L::Words {
    let (word, by) = (start / 32, start % 32);
    let low = lanes.load_words(&words[word]);
    if by + len <= 32 {
        lanes.shift(low, by)
    } else {
        lanes.shift_pair(low, lanes.load_words(&words[word + 1]), by)
    }
}

/// Adds the product of a panel with each of the inputs to the totals.
///
/// `x` begins at the block's first column of the first input; inputs are `stride` numbers apart.
///
/// It does not depend on the width of the indices, so it is a function of its own and compiled once for all of them.
#[inline(always)]
pub(crate) fn multiply_panel<L: Lanes>(
    lanes: L,
    panel: &[FloatLanes],
    x: &[f32],
    stride: usize,
    totals: &mut [FloatLanes],
) {
    lanes.run::<Multiply<'_>, 1>(Multiply {
        panel,
        x,
        stride,
        totals,
    });
}

/// The product of [`multiply_panel`].
struct Multiply<'a> {
    panel: &'a [FloatLanes],
    x: &'a [f32],
    stride: usize,
    totals: &'a mut [FloatLanes],
}

impl Job for Multiply<'_> {
    fn bits(&self) -> usize {
        1
    }

    #[inline(always)]
    fn run<L: Lanes, const BITS: usize>(mut self, lanes: L) {
        if const { L::INPUTS == 8 } {
            self.groups::<L, 8>(lanes);
        } else if const { L::INPUTS == 4 } {
            self.groups::<L, 4>(lanes);
        } else {
            self.groups::<L, 1>(lanes);
        }
        // What is left runs together too: the sums of one input alone would each wait for the one before.
        match self.totals.len() {
            1 if const { L::INPUTS > 1 } => self.groups::<L, 1>(lanes),
            2 if const { L::INPUTS > 2 } => self.groups::<L, 2>(lanes),
            3 if const { L::INPUTS > 3 } => self.groups::<L, 3>(lanes),
            4 if const { L::INPUTS > 4 } => self.groups::<L, 4>(lanes),
            5 if const { L::INPUTS > 5 } => self.groups::<L, 5>(lanes),
            6 if const { L::INPUTS > 6 } => self.groups::<L, 6>(lanes),
            7 if const { L::INPUTS > 7 } => self.groups::<L, 7>(lanes),
            _ => {}
        }
    }
}

impl Multiply<'_> {
    /// Takes as many inputs away as make groups of `INPUTS`.
    #[inline(always)]
    fn groups<L: Lanes, const INPUTS: usize>(&mut self, lanes: L) {
        let totals = std::mem::take(&mut self.totals);
        let (groups, rest) = totals.split_at_mut(totals.len() / INPUTS * INPUTS);
        for totals in groups.chunks_exact_mut(INPUTS) {
            multiply_inputs::<L, INPUTS>(lanes, self.panel, self.x, self.stride, totals);
            self.x = self.x.get(INPUTS * self.stride..).unwrap_or_default();
        }
        self.totals = rest;
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
