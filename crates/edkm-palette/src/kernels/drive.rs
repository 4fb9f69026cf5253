//! Runs the kernels over the tiles of a matrix, in parallel where that pays.

use std::ops::Range;

use rayon::prelude::*;

use super::block::{multiply_panel, unpack_block, Tile, BLOCK};
use super::lanes::{Job, Lanes};
use super::portable::Portable;
use crate::layout::{Layout, WordLanes, TILE_ROWS};
use crate::tables::{FloatLanes, Tables};

/// Multiply-adds below which a second thread costs more than it saves.
const PARALLEL_WORK: usize = 1 << 16;

/// Pieces of work for each thread, so that a thread which is held up does not hold up the rest.
const JOBS_PER_THREAD: usize = 4;

/// The parts of a matrix that the kernels read.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) words: &'a [WordLanes],
    pub(crate) tables: &'a Tables,
}

impl<'a> Source<'a> {
    #[inline(always)]
    fn tile(&self, tile: usize) -> Tile<'a> {
        let palette = self.tables.of_tile(self.layout, self.layout.tile_rows(tile));
        Tile::new(self.layout, self.words, palette, tile)
    }

    /// Tiles of one job.
    fn tiles_per_job(&self, inputs: usize) -> usize {
        let tiles = self.layout.tiles;
        if self.layout.rows.saturating_mul(self.layout.cols).saturating_mul(inputs) < PARALLEL_WORK {
            return tiles;
        }
        let jobs = rayon::current_num_threads() * JOBS_PER_THREAD;
        tiles.div_ceil(jobs).next_multiple_of(4)
    }
}

/// `y = W x`, without row scales.
pub(crate) fn matvec(source: &Source<'_>, x: &[f32], y: &mut [f32]) {
    let per_job = source.tiles_per_job(1);
    let mut jobs = Vec::new();
    let mut rest = y;
    for first in (0..source.layout.tiles).step_by(per_job) {
        let tiles = first..(first + per_job).min(source.layout.tiles);
        let rows = source.layout.tile_rows(tiles.end - 1).range().end - source.layout.tile_rows(first).first_row;
        let (y, others) = rest.split_at_mut(rows);
        rest = others;
        jobs.push(Matvec {
            source: *source,
            tiles,
            x,
            y,
        });
    }
    if jobs.len() == 1 {
        jobs.into_iter().for_each(dispatch);
    } else {
        jobs.into_par_iter().for_each(dispatch);
    }
}

/// `y = x W^T` for `m` inputs, without row scales.
pub(crate) fn matmul(source: &Source<'_>, x: &[f32], m: usize, y: &mut [f32]) {
    let per_job = source.tiles_per_job(m);
    let mut totals: Vec<FloatLanes> = vec![[0.0; TILE_ROWS]; source.layout.tiles * m];
    let job = |(job, totals)| {
        let first = job * per_job;
        dispatch(Matmul {
            source: *source,
            first_tile: first,
            x,
            m,
            totals,
        });
    };
    totals.par_chunks_mut(per_job * m).enumerate().for_each(job);
    // From [tiles, m, 16] to [m, rows].
    y.par_chunks_mut(source.layout.rows).enumerate().for_each(|(input, y)| {
        for tile in 0..source.layout.tiles {
            let rows = source.layout.tile_rows(tile);
            y[rows.range()].copy_from_slice(&totals[tile * m + input][..rows.len]);
        }
    });
}

/// Runs a job with the best lanes that the processor has.
fn dispatch<J: Job>(job: J) {
    job.run(Portable);
}

struct Matvec<'a> {
    source: Source<'a>,
    tiles: Range<usize>,
    x: &'a [f32],
    /// The rows of `tiles`.
    y: &'a mut [f32],
}

struct Matmul<'a> {
    source: Source<'a>,
    first_tile: usize,
    x: &'a [f32],
    m: usize,
    /// `[tiles, m]`, zero at first.
    totals: &'a mut [FloatLanes],
}

impl Matvec<'_> {
    #[inline(always)]
    fn run_as<L: Lanes, const BITS: usize, const VECTOR: usize>(self, lanes: L) {
        let first_row = self.source.layout.tile_rows(self.tiles.start).first_row;
        let mut panel = [[0.0; TILE_ROWS]; BLOCK];
        for tile in self.tiles {
            let rows = self.source.layout.tile_rows(tile);
            let mut total = [[0.0; TILE_ROWS]];
            let tile = self.source.tile(tile);
            for (block, x) in self.x.chunks(BLOCK).enumerate() {
                let panel = unpack_block::<L, BITS, VECTOR>(lanes, tile, block, &mut panel);
                multiply_panel(lanes, panel, x, 0, &mut total);
            }
            self.y[rows.first_row - first_row..][..rows.len].copy_from_slice(&total[0][..rows.len]);
        }
    }
}

impl Matmul<'_> {
    #[inline(always)]
    fn run_as<L: Lanes, const BITS: usize, const VECTOR: usize>(self, lanes: L) {
        let cols = self.source.layout.cols;
        let mut panel = [[0.0; TILE_ROWS]; BLOCK];
        for (offset, totals) in self.totals.chunks_exact_mut(self.m).enumerate() {
            let tile = self.source.tile(self.first_tile + offset);
            for block in 0..cols.div_ceil(BLOCK) {
                let panel = unpack_block::<L, BITS, VECTOR>(lanes, tile, block, &mut panel);
                multiply_panel(lanes, panel, &self.x[block * BLOCK..], cols, totals);
            }
        }
    }
}

/// Gives a job the constants of its spec. Specs are validated: the last arm of each match is the last width, 8.
macro_rules! impl_job {
    ($job:ident) => {
        impl Job for $job<'_> {
            #[inline(always)]
            fn run<L: Lanes>(self, lanes: L) {
                #[inline(always)]
                fn with_bits<L: Lanes, const BITS: usize>(job: $job<'_>, lanes: L) {
                    match job.source.layout.spec.vector {
                        1 => job.run_as::<L, BITS, 1>(lanes),
                        2 => job.run_as::<L, BITS, 2>(lanes),
                        4 => job.run_as::<L, BITS, 4>(lanes),
                        _ => job.run_as::<L, BITS, 8>(lanes),
                    }
                }
                match self.source.layout.spec.bits {
                    1 => with_bits::<L, 1>(self, lanes),
                    2 => with_bits::<L, 2>(self, lanes),
                    3 => with_bits::<L, 3>(self, lanes),
                    4 => with_bits::<L, 4>(self, lanes),
                    5 => with_bits::<L, 5>(self, lanes),
                    6 => with_bits::<L, 6>(self, lanes),
                    7 => with_bits::<L, 7>(self, lanes),
                    _ => with_bits::<L, 8>(self, lanes),
                }
            }
        }
    };
}

impl_job!(Matvec);
impl_job!(Matmul);
