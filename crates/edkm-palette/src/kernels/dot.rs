//! Matrix-vector products of whole tiles.
//!
//! Several tiles run side by side: their sums do not depend on each other, which hides the latency of the multiply-add, and
//! they share the input. The order of each row's sum is that of [`block`](super::block).

use super::block::{bits_at, unpack_chunk, Panel, Tile, BLOCK, CHUNK};
use super::lanes::Lanes;
use crate::layout::{WordLanes, TILE_ROWS};
use crate::tables::FloatLanes;

/// Widest index that is looked up without a stop in memory: an instruction or two each, in unrolled code.
const FUSED_BITS: usize = 5;

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
    let fused = vector == 1 && tiles.iter().all(|tile| tile.palettes.groups == 1);

    let mut totals = [lanes.splat(0.0); TILES];
    for (block, x) in x.chunks(BLOCK).enumerate() {
        let mut sums = [lanes.splat(0.0); TILES];
        let first_chunk = block * BLOCK / (CHUNK * vector);
        for (chunk, x) in x.chunks(CHUNK * vector).enumerate() {
            let chunk = first_chunk + chunk;
            // Lanes that run one tile at a time have no need of unrolled code.
            if const { BITS <= FUSED_BITS && TILES > 1 } {
                if let (true, Some(x)) = (fused, x.first_chunk::<CHUNK>()) {
                    sums = dot_chunk::<L, BITS, TILES>(lanes, tiles, &tables, chunk, x, sums);
                    continue;
                }
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

/// Adds 32 columns of single numbers to the sums, from the words to the sums in registers.
#[inline(always)]
fn dot_chunk<L: Lanes, const BITS: usize, const TILES: usize>(
    lanes: L,
    tiles: &[Tile<'_>; TILES],
    tables: &[&[FloatLanes]; TILES],
    chunk: usize,
    x: &[f32; CHUNK],
    mut sums: [L::Floats; TILES],
) -> [L::Floats; TILES] {
    let words: [&[WordLanes; BITS]; TILES] = std::array::from_fn(|tile| {
        let words = tiles[tile]
            .words
            .get(chunk * BITS..)
            .and_then(|words| words.first_chunk());
        words.unwrap_or(&[[0; TILE_ROWS]; BITS])
    });
    unroll_chunk!(I, {
        let x = lanes.splat(x[I]);
        for tile in 0..TILES {
            let index = bits_at::<L, BITS>(lanes, words[tile], I * BITS, BITS);
            sums[tile] = lanes.fma(lanes.lookup::<BITS>(tables[tile], index), x, sums[tile]);
        }
    });
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
        for (sum, panel) in sums.iter_mut().zip(panels.iter()) {
            *sum = lanes.fma(lanes.load(&panel[column]), x, *sum);
        }
    }
    sums
}
