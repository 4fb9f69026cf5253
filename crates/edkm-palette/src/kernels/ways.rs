//! The ways from the packed words of a chunk to sums in registers.
//!
//! Which one a product takes depends on how its rows lie among the palettes. Each is compiled as a function of its own: in one
//! function they would take registers from each other, and the compiler minutes.

use super::block::{bits_at, lookup_tile, Tile};
use super::lanes::Lanes;
use crate::layout::WordLanes;
use crate::tables::{Column, Lookup};

/// Repeats `$body` with each of the constants as `$i`: a loop that the compiler must unroll, for its shifts to be constants.
macro_rules! unroll {
    ($i:ident in [$($n:literal)*], $body:block) => {
        $({ const $i: usize = $n; $body })*
    };
}

/// A way from words to sums.
pub(crate) trait Way {
    /// Numbers of the palettes' vectors, 1 or 2: for longer ones the registers are too few. 0 for what goes by way of unpacked panels.
    const VECTOR: usize;
    /// Whether indices may be looked up alone.
    const SINGLES: bool;

    /// What is needed of a tile's palettes.
    type Palettes<'a, L: Lanes>: Copy;

    /// The same, if the tile may go this way.
    fn palettes<'a, L: Lanes>(lanes: L, tile: &Tile<'a>) -> Option<Self::Palettes<'a, L>>;

    /// The numbers in `column` of the entries that four indices choose, each row in its own palette.
    fn lookup_four<L: Lanes, const BITS: usize>(
        lanes: L,
        palettes: Self::Palettes<'_, L>,
        column: Column,
        indices: L::Words,
    ) -> [L::Floats; 4];

    /// As [`Self::lookup_four`] for one index and entries of one number.
    #[inline(always)]
    fn lookup<L: Lanes, const BITS: usize>(lanes: L, palettes: Self::Palettes<'_, L>, index: L::Words) -> L::Floats {
        Self::lookup_four::<L, BITS>(lanes, palettes, Column::ONLY, index)[0]
    }
}

/// One palette of single numbers.
pub(crate) struct One;

/// Palettes of single numbers, as the lanes share them.
pub(crate) struct Shared;

/// Palettes of vectors of `VECTOR` numbers, however the rows lie.
pub(crate) struct AnyRows<const VECTOR: usize>;

/// Palettes of vectors of any length, by way of unpacked panels: no chunk goes straight to the sums.
pub(crate) type Unpacked = AnyRows<0>;

impl Way for One {
    const VECTOR: usize = 1;
    const SINGLES: bool = true;
    type Palettes<'a, L: Lanes> = Lookup<'a>;

    #[inline(always)]
    fn palettes<'a, L: Lanes>(_: L, tile: &Tile<'a>) -> Option<Lookup<'a>> {
        (tile.palettes.groups == 1).then_some(tile.palettes.lookup)
    }

    #[inline(always)]
    fn lookup_four<L: Lanes, const BITS: usize>(
        lanes: L,
        palette: Lookup<'_>,
        column: Column,
        indices: L::Words,
    ) -> [L::Floats; 4] {
        lanes.lookup_four::<BITS>(palette, column.table(0), indices)
    }

    #[inline(always)]
    fn lookup<L: Lanes, const BITS: usize>(lanes: L, palette: Lookup<'_>, index: L::Words) -> L::Floats {
        lanes.lookup::<BITS>(palette, 0, index)
    }
}

impl Way for Shared {
    const VECTOR: usize = 1;
    const SINGLES: bool = true;
    type Palettes<'a, L: Lanes> = (Lookup<'a>, L::Shares);

    #[inline(always)]
    fn palettes<'a, L: Lanes>(lanes: L, tile: &Tile<'a>) -> Option<(Lookup<'a>, L::Shares)> {
        Some((tile.palettes.lookup, lanes.shares(&tile.palettes)?))
    }

    #[inline(always)]
    fn lookup_four<L: Lanes, const BITS: usize>(
        lanes: L,
        (palettes, shares): (Lookup<'_>, L::Shares),
        column: Column,
        indices: L::Words,
    ) -> [L::Floats; 4] {
        lanes.lookup_four_shared::<BITS>(palettes, shares, column, indices)
    }

    #[inline(always)]
    fn lookup<L: Lanes, const BITS: usize>(
        lanes: L,
        (palettes, shares): (Lookup<'_>, L::Shares),
        index: L::Words,
    ) -> L::Floats {
        lanes.lookup_shared::<BITS>(palettes, shares, Column::ONLY, index)
    }
}

impl<const VECTOR: usize> Way for AnyRows<VECTOR> {
    const VECTOR: usize = VECTOR;
    const SINGLES: bool = false;
    type Palettes<'a, L: Lanes> = Tile<'a>;

    #[inline(always)]
    fn palettes<'a, L: Lanes>(_: L, tile: &Tile<'a>) -> Option<Tile<'a>> {
        Some(*tile)
    }

    #[inline(always)]
    fn lookup_four<L: Lanes, const BITS: usize>(
        lanes: L,
        tile: Tile<'_>,
        column: Column,
        indices: L::Words,
    ) -> [L::Floats; 4] {
        lookup_tile::<L, BITS>(lanes, &tile, column, indices)
    }
}

/// Adds the columns of a chunk to the sums.
#[inline(always)]
pub(crate) fn add_chunk<L: Lanes, W: Way, const BITS: usize, const TILES: usize>(
    lanes: L,
    words: &[&[WordLanes; BITS]; TILES],
    palettes: &[W::Palettes<'_, L>; TILES],
    x: &[f32],
    sums: [L::Floats; TILES],
) -> [L::Floats; TILES] {
    if const { W::SINGLES && BITS <= L::SINGLE_BITS } {
        add_singles::<L, W, BITS, TILES>(lanes, words, palettes, x, sums)
    } else {
        add_fours::<L, W, BITS, TILES>(lanes, words, palettes, x, sums)
    }
}

/// Adds 32 columns of single numbers to the sums, index by index.
#[inline(always)]
fn add_singles<L: Lanes, W: Way, const BITS: usize, const TILES: usize>(
    lanes: L,
    words: &[&[WordLanes; BITS]; TILES],
    palettes: &[W::Palettes<'_, L>; TILES],
    x: &[f32],
    mut sums: [L::Floats; TILES],
) -> [L::Floats; TILES] {
    unroll!(I in [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31], {
        let x = lanes.splat(x[I]);
        for tile in 0..TILES {
            let index = bits_at::<L, BITS>(lanes, words[tile], I * BITS, BITS);
            let weights = W::lookup::<L, BITS>(lanes, palettes[tile], index);
            sums[tile] = lanes.fma(weights, x, sums[tile]);
        }
    });
    sums
}

/// Adds the columns of 32 vectors to the sums, four vectors at a time.
#[inline(always)]
fn add_fours<L: Lanes, W: Way, const BITS: usize, const TILES: usize>(
    lanes: L,
    words: &[&[WordLanes; BITS]; TILES],
    palettes: &[W::Palettes<'_, L>; TILES],
    x: &[f32],
    mut sums: [L::Floats; TILES],
) -> [L::Floats; TILES] {
    if const { TILES == 1 } {
        // Not in the array, so that the compiler keeps it in registers.
        let mut sum = sums[0];
        for (four, x) in x.chunks_exact(4 * W::VECTOR).enumerate() {
            sum = add_four::<L, W, BITS>(lanes, words[0], palettes[0], four, x, sum);
        }
        return [sum; TILES];
    }
    for (four, x) in x.chunks_exact(4 * W::VECTOR).enumerate() {
        for tile in 0..TILES {
            sums[tile] = add_four::<L, W, BITS>(lanes, words[tile], palettes[tile], four, x, sums[tile]);
        }
    }
    sums
}

/// Adds the columns of vectors `4 * four` to `4 * four + 3` of a chunk to the sums of a tile.
#[inline(always)]
fn add_four<L: Lanes, W: Way, const BITS: usize>(
    lanes: L,
    words: &[WordLanes; BITS],
    palettes: W::Palettes<'_, L>,
    four: usize,
    x: &[f32],
    mut sum: L::Floats,
) -> L::Floats {
    let indices = bits_at::<L, BITS>(lanes, words, four * 4 * BITS, 4 * BITS);
    // A vector has two numbers at most.
    let mut weights = [[lanes.splat(0.0); 4]; 2];
    for (column, weights) in weights.iter_mut().enumerate().take(W::VECTOR) {
        let column = Column {
            vector: W::VECTOR,
            column,
        };
        *weights = W::lookup_four::<L, BITS>(lanes, palettes, column, indices);
    }
    for i in 0..4 {
        for (column, weights) in weights.iter().enumerate().take(W::VECTOR) {
            sum = lanes.fma(weights[i], lanes.splat(x[i * W::VECTOR + column]), sum);
        }
    }
    sum
}
