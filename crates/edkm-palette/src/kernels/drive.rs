//! Runs the kernels over the tiles of a matrix, in parallel where that pays.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::block::{multiply_panel, unpack_block, Panel, Tile, BLOCK, CHUNK, EMPTY_PANEL};
use super::dot::dot_tiles;
use super::isa::Isa;
use super::lanes::{Job, Lanes};
use super::ways::{AnyRows, One, Shared, Unpacked, Way};
use crate::layout::{Layout, WordLanes, TILE_ROWS};
use crate::tables::{FloatLanes, Tables};

/// Multiply-adds below which a second thread costs more than it saves.
const PARALLEL_WORK: usize = 1 << 16;

/// Jobs begin at a multiple of this many tiles: the most that a kernel runs side by side.
const JOB_TILES: usize = 4;

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
        let words = self.words.get(self.layout.tile_words(tile)).unwrap_or_default();
        let palettes = self.tables.of_tile(self.layout, self.layout.tile_rows(tile));
        Tile {
            words,
            palettes,
            vector: self.layout.spec.vector,
        }
    }

    /// Tiles of one job.
    fn tiles_per_job(&self, inputs: usize) -> usize {
        let tiles = self.layout.tiles;
        if self.layout.rows.saturating_mul(self.layout.cols).saturating_mul(inputs) < PARALLEL_WORK {
            return tiles;
        }
        let jobs = rayon::current_num_threads() * JOBS_PER_THREAD;
        tiles.div_ceil(jobs).next_multiple_of(JOB_TILES)
    }
}

/// `y = W x`, without row scales.
pub(crate) fn matvec(source: &Source<'_>, isa: Isa, x: &[f32], y: &mut [f32]) {
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
        jobs.into_iter().for_each(|job| isa.run(job));
    } else {
        jobs.into_par_iter().for_each(|job| isa.run(job));
    }
}

/// `y = x W^T` for `m` inputs, without row scales.
pub(crate) fn matmul(source: &Source<'_>, isa: Isa, x: &[f32], m: usize, y: &mut [f32]) {
    let per_job = source.tiles_per_job(m);
    let mut totals: Vec<FloatLanes> = vec![[0.0; TILE_ROWS]; source.layout.tiles * m];
    let job = |(job, totals)| {
        let first = job * per_job;
        isa.run(Matmul {
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

impl Job for Matvec<'_> {
    fn bits(&self) -> usize {
        self.source.layout.bits()
    }

    #[inline(always)]
    fn run<L: Lanes, const BITS: usize>(self, lanes: L) {
        if const { !L::IN_REGISTERS } {
            return self.go::<L, Unpacked, BITS>(lanes);
        }
        match self.source.layout.spec.vector {
            1 if self.all_go::<L, One>(lanes) => self.go::<L, One, BITS>(lanes),
            1 if self.all_go::<L, Shared>(lanes) => self.go::<L, Shared, BITS>(lanes),
            1 => self.go::<L, AnyRows<1>, BITS>(lanes),
            2 => self.go::<L, AnyRows<2>, BITS>(lanes),
            _ => self.go::<L, Unpacked, BITS>(lanes),
        }
    }
}

/// A [`Matvec`] by one of the ways.
struct MatvecBy<'a, W> {
    matvec: Matvec<'a>,
    way: PhantomData<W>,
}

impl<W: Way> Job for MatvecBy<'_, W> {
    fn bits(&self) -> usize {
        self.matvec.bits()
    }

    #[inline(always)]
    fn run<L: Lanes, const BITS: usize>(self, lanes: L) {
        // Constant conditions keep the compiler from making code for numbers that these lanes do not use.
        if const { L::TILES == 4 } {
            self.matvec.dot::<L, W, BITS, 4>(lanes);
        } else if const { L::TILES == 2 } {
            self.matvec.dot::<L, W, BITS, 2>(lanes);
        } else {
            self.matvec.dot::<L, W, BITS, 1>(lanes);
        }
    }
}

impl<'a> Matvec<'a> {
    /// Whether every tile may go this way.
    fn all_go<L: Lanes, W: Way>(&self, lanes: L) -> bool {
        self.tiles
            .clone()
            .all(|tile| W::palettes(lanes, &self.source.tile(tile)).is_some())
    }

    /// Goes it.
    fn go<L: Lanes, W: Way, const BITS: usize>(self, lanes: L) {
        lanes.run::<MatvecBy<'a, W>, BITS>(MatvecBy {
            matvec: self,
            way: PhantomData,
        });
    }

    /// The product, `N` tiles at a time. Where fewer are left, the last of them fills up: code for one tile alone is not worth having.
    #[inline(always)]
    fn dot<L: Lanes, W: Way, const BITS: usize, const N: usize>(mut self, lanes: L) {
        // Only where it is needed: to clear it takes longer than a small product.
        let mut room;
        let panels: &mut [Panel] = match W::VECTOR > 0 && self.source.layout.cols.is_multiple_of(CHUNK * W::VECTOR) {
            true => &mut [],
            false => {
                room = [EMPTY_PANEL; N];
                &mut room
            }
        };
        for first in self.tiles.clone().step_by(N) {
            let last = self.tiles.end - 1;
            let tiles = std::array::from_fn(|i| self.source.tile((first + i).min(last)));
            let totals = dot_tiles::<L, W, BITS, N>(lanes, &tiles, self.x, panels);
            for (tile, total) in (first..self.tiles.end).zip(&totals) {
                self.write(tile, total);
            }
        }
    }

    fn write(&mut self, tile: usize, total: &FloatLanes) {
        let first_row = self.source.layout.tile_rows(self.tiles.start).first_row;
        let rows = self.source.layout.tile_rows(tile);
        self.y[rows.first_row - first_row..][..rows.len].copy_from_slice(&total[..rows.len]);
    }
}

impl Job for Matmul<'_> {
    fn bits(&self) -> usize {
        self.source.layout.bits()
    }

    #[inline(always)]
    fn run<L: Lanes, const BITS: usize>(self, lanes: L) {
        let cols = self.source.layout.cols;
        let mut panel = EMPTY_PANEL;
        for (offset, totals) in self.totals.chunks_exact_mut(self.m).enumerate() {
            let tile = self.source.tile(self.first_tile + offset);
            for first in (0..cols).step_by(BLOCK) {
                let len = BLOCK.min(cols - first);
                let panel = unpack_block::<L, BITS>(lanes, tile, first / BLOCK, len, &mut panel);
                multiply_panel(lanes, panel, &self.x[first..], cols, totals);
            }
        }
    }
}
