//! Matrix-vector products of whole tiles.
//!
//! Several tiles run side by side: their sums do not depend on each other, which hides the latency of the multiply-add, and
//! they share the input. The order of each row's sum is that of [`block`](super::block).

use super::block::{bits_at, lookup_tile, unpack_chunk, Panel, Tile, BLOCK, CHUNK};
use super::lanes::Lanes;
use crate::layout::{WordLanes, TILE_ROWS};
use crate::tables::FloatLanes;

/// Widest index that is looked up alone, an instruction or two each, in unrolled code. Wider ones are looked up by fours.
const SINGLE_BITS: usize = 5;

/// Repeats `$body` with the constant `$i` from 0 to 31: a loop that the compiler must unroll, for its shifts to be constants.
macro_rules! unroll_chunk {
    ($i:ident, $body:block) => {
        unroll_chunk!(@ $i, $body,
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31)
    };
    (@ $i:ident, $body:block, $($n:literal)*) => {
        $({ const $i: usize = $n; $body })*
    };
}

/// `y = W x` for the rows of `TILES` tiles. `panels` is room to work in.
#[inline(always)]
pub(crate) fn dot_tiles<L: Lanes, const BITS: usize, const TILES: usize>(
    lanes: L,
    tiles: &[Tile<'_>; TILES],
    x: &[f32],
    panels: &mut [Panel; TILES],
) -> [FloatLanes; TILES] {
    let vector = tiles[0].vector;
    let tables = tiles.map(|tile| tile.palettes.lookup.floats);
    let one_palette = tiles.iter().all(|tile| tile.palettes.groups == 1);

    let mut totals = [lanes.splat(0.0); TILES];
    for (block, x) in x.chunks(BLOCK).enumerate() {
        let mut sums = [lanes.splat(0.0); TILES];
        let first_chunk = block * BLOCK / (CHUNK * vector);
        for (chunk, x) in x.chunks(CHUNK * vector).enumerate() {
            let chunk = first_chunk + chunk;
            // Lanes that run one tile at a time have no need of code that goes without a stop in memory, and longer vectors not the registers.
            if const { TILES > 1 } && vector <= 2 && x.len() == CHUNK * vector {
                let words = chunk_words::<BITS, TILES>(tiles, chunk);
                sums = match (vector, one_palette) {
                    (1, true) if const { BITS <= SINGLE_BITS } => {
                        dot_singles::<L, BITS, TILES>(lanes, &words, &tables, x, sums)
                    }
                    (1, true) => dot_fours::<L, One, BITS, TILES, 1>(lanes, &words, tiles, x, sums),
                    (1, false) => dot_fours::<L, Several, BITS, TILES, 1>(lanes, &words, tiles, x, sums),
                    _ => dot_fours::<L, Several, BITS, TILES, 2>(lanes, &words, tiles, x, sums),
                };
                continue;
            }
            sums = dot_unpacked::<L, BITS, TILES>(lanes, tiles, chunk, x, panels, sums);
        }
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = lanes.add(*total, sum);
        }
    }
    let mut stored = [[0.0; TILE_ROWS]; TILES];
    for (stored, total) in stored.iter_mut().zip(totals) {
        lanes.store(total, stored);
    }
    stored
}

/// The words of a chunk of each tile; zeros where a mapping has shrunk.
#[inline(always)]
fn chunk_words<'a, const BITS: usize, const TILES: usize>(
    tiles: &[Tile<'a>; TILES],
    chunk: usize,
) -> [&'a [WordLanes; BITS]; TILES] {
    std::array::from_fn(
        #[inline(always)]
        |tile| {
            let words = tiles[tile].words.get(chunk * BITS..);
            words
                .and_then(|words| words.first_chunk())
                .unwrap_or(&[[0; TILE_ROWS]; BITS])
        },
    )
}

/// Adds 32 columns of single numbers to the sums, from the words to the sums in registers, index by index.
#[inline(always)]
fn dot_singles<L: Lanes, const BITS: usize, const TILES: usize>(
    lanes: L,
    words: &[&[WordLanes; BITS]; TILES],
    tables: &[&[FloatLanes]; TILES],
    x: &[f32],
    mut sums: [L::Floats; TILES],
) -> [L::Floats; TILES] {
    unroll_chunk!(I, {
        let x = lanes.splat(x[I]);
        for tile in 0..TILES {
            let index = bits_at::<L, BITS>(lanes, words[tile], I * BITS, BITS);
            sums[tile] = lanes.fma(lanes.lookup::<BITS>(tables[tile], index), x, sums[tile]);
        }
    });
    sums
}

/// The palettes that a tile's rows use.
trait Palettes {
    fn lookup_four<L: Lanes, const BITS: usize>(
        lanes: L,
        tile: &Tile<'_>,
        column: usize,
        indices: L::Words,
    ) -> [L::Floats; 4];
}

/// One for all rows.
struct One;

/// One or more.
struct Several;

impl Palettes for One {
    #[inline(always)]
    fn lookup_four<L: Lanes, const BITS: usize>(
        lanes: L,
        tile: &Tile<'_>,
        column: usize,
        indices: L::Words,
    ) -> [L::Floats; 4] {
        lanes.lookup_four::<BITS>(tile.palettes.lookup, column, indices)
    }
}

impl Palettes for Several {
    #[inline(always)]
    fn lookup_four<L: Lanes, const BITS: usize>(
        lanes: L,
        tile: &Tile<'_>,
        column: usize,
        indices: L::Words,
    ) -> [L::Floats; 4] {
        lookup_tile::<L, BITS>(lanes, tile, column, indices)
    }
}

/// Adds the columns of 32 vectors of `VECTOR` numbers to the sums, four vectors at a time.
#[inline(always)]
fn dot_fours<L: Lanes, P: Palettes, const BITS: usize, const TILES: usize, const VECTOR: usize>(
    lanes: L,
    words: &[&[WordLanes; BITS]; TILES],
    tiles: &[Tile<'_>; TILES],
    x: &[f32],
    mut sums: [L::Floats; TILES],
) -> [L::Floats; TILES] {
    for (four, x) in x.chunks_exact(4 * VECTOR).enumerate() {
        for tile in 0..TILES {
            let indices = bits_at::<L, BITS>(lanes, words[tile], four * 4 * BITS, 4 * BITS);
            let mut weights = [[lanes.splat(0.0); 4]; VECTOR];
            for (column, weights) in weights.iter_mut().enumerate() {
                *weights = P::lookup_four::<L, BITS>(lanes, &tiles[tile], column, indices);
            }
            for i in 0..4 {
                for (column, weights) in weights.iter().enumerate() {
                    sums[tile] = lanes.fma(weights[i], lanes.splat(x[i * VECTOR + column]), sums[tile]);
                }
            }
        }
    }
    sums
}

/// Adds the columns of a chunk to the sums, unpacked into the panels.
#[inline(always)]
fn dot_unpacked<L: Lanes, const BITS: usize, const TILES: usize>(
    lanes: L,
    tiles: &[Tile<'_>; TILES],
    chunk: usize,
    x: &[f32],
    panels: &mut [Panel; TILES],
    mut sums: [L::Floats; TILES],
) -> [L::Floats; TILES] {
    for (tile, panel) in tiles.iter().zip(panels.iter_mut()) {
        unpack_chunk::<L, BITS>(lanes, *tile, chunk, &mut panel[..CHUNK * tile.vector]);
    }
    for (column, &x) in x.iter().enumerate() {
        let x = lanes.splat(x);
        // By number: only so the compiler keeps the sums in registers.
        for tile in 0..TILES {
            sums[tile] = lanes.fma(lanes.load(&panels[tile][column]), x, sums[tile]);
        }
    }
    sums
}
