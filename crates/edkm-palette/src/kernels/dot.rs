//! Matrix-vector products of whole tiles.
//!
//! Several tiles run side by side: their sums do not depend on each other, which hides the latency of the multiply-add, and
//! they share the input. The order of each row's sum is that of [`block`](super::block).

use super::block::{unpack_chunk, Panel, Tile, BLOCK, CHUNK};
use super::lanes::Lanes;
use super::ways::{add_chunk, Way};
use crate::layout::{WordLanes, TILE_ROWS};
use crate::tables::FloatLanes;

/// `y = W x` for the rows of `TILES` tiles, which may all go this way. `panels` is room to work in, one for each tile; none
/// where the columns make whole chunks and the way takes these.
#[inline(always)]
pub(crate) fn dot_tiles<L: Lanes, W: Way, const BITS: usize, const TILES: usize>(
    lanes: L,
    tiles: &[Tile<'_>; TILES],
    x: &[f32],
    panels: &mut [Panel],
) -> [FloatLanes; TILES] {
    let vector = tiles[0].vector;
    let palettes = tiles.map(
        #[inline(always)]
        |tile| W::palettes(lanes, &tile).expect("a tile that may go this way"),
    );
    let mut totals = [lanes.splat(0.0); TILES];
    for (block, x) in x.chunks(BLOCK).enumerate() {
        let mut sums = [lanes.splat(0.0); TILES];
        let first_chunk = block * BLOCK / (CHUNK * vector);
        for (chunk, x) in x.chunks(CHUNK * vector).enumerate() {
            let chunk = first_chunk + chunk;
            prefetch::<L, BITS, TILES>(lanes, tiles, chunk);
            sums = if const { W::VECTOR > 0 } && x.len() == CHUNK * W::VECTOR {
                let words = chunk_words::<BITS, TILES>(tiles, chunk);
                add_chunk::<L, W, BITS, TILES>(lanes, &words, &palettes, x, sums)
            } else {
                add_unpacked::<L, BITS, TILES>(lanes, tiles, chunk, x, panels, sums)
            };
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

/// Cache lines of each tile that are asked for before they are read. The tiles are as many streams, each shorter than what the
/// hardware needs to see where it is going.
const AHEAD: usize = 32;

/// Asks for the lines that come [`AHEAD`] of a chunk's: behind the end of a tile those of the one that is its place next.
#[inline(always)]
fn prefetch<L: Lanes, const BITS: usize, const TILES: usize>(lanes: L, tiles: &[Tile<'_>; TILES], chunk: usize) {
    for tile in tiles {
        let mut ahead = chunk * BITS + AHEAD;
        if ahead >= tile.words.len() {
            ahead += (TILES - 1) * tile.words.len();
        }
        for line in 0..BITS {
            lanes.prefetch(tile.words.as_ptr().wrapping_add(ahead + line));
        }
    }
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

/// Adds the columns of a chunk to the sums, unpacked into the panels.
#[inline(always)]
fn add_unpacked<L: Lanes, const BITS: usize, const TILES: usize>(
    lanes: L,
    tiles: &[Tile<'_>; TILES],
    chunk: usize,
    x: &[f32],
    panels: &mut [Panel],
    mut sums: [L::Floats; TILES],
) -> [L::Floats; TILES] {
    let panels: &mut [Panel; TILES] = panels.first_chunk_mut().expect("a panel for each tile");
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
