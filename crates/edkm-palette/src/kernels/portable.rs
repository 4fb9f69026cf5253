//! Sixteen lanes as arrays: the path of any processor, and the reference for the others.

use std::convert::Infallible;

use super::lanes::{Job, Lanes};
use crate::layout::{WordLanes, TILE_ROWS};
use crate::tables::{flat, Column, FloatLanes, Lookup, TilePalettes};

/// Plain arrays; always there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

impl Lanes for Portable {
    type Floats = [f32; TILE_ROWS];
    type Words = WordLanes;
    type Shares = Infallible;

    const INPUTS: usize = 1;
    const TILES: usize = 1;
    const IN_REGISTERS: bool = false;
    const SINGLE_BITS: usize = 0;

    #[inline(never)]
    fn run<J: Job, const BITS: usize>(self, job: J) {
        job.run::<Portable, BITS>(self);
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; TILE_ROWS] {
        [value; TILE_ROWS]
    }

    #[inline(always)]
    fn load(self, lanes: &FloatLanes) -> [f32; TILE_ROWS] {
        lanes.0
    }

    #[inline(always)]
    fn store(self, value: [f32; TILE_ROWS], lanes: &mut FloatLanes) {
        lanes.0 = value;
    }

    #[inline(always)]
    fn load_words(self, lanes: &WordLanes) -> WordLanes {
        *lanes
    }

    #[inline(always)]
    fn prefetch(self, _: *const WordLanes) {}

    #[inline(always)]
    fn add(self, a: [f32; TILE_ROWS], b: [f32; TILE_ROWS]) -> [f32; TILE_ROWS] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn fma(self, a: [f32; TILE_ROWS], b: [f32; TILE_ROWS], c: [f32; TILE_ROWS]) -> [f32; TILE_ROWS] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn shift(self, value: WordLanes, by: usize) -> WordLanes {
        value.map(|word| word >> by)
    }

    #[inline(always)]
    fn shift_pair(self, low: WordLanes, high: WordLanes, by: usize) -> WordLanes {
        std::array::from_fn(|i| low[i] >> by | high[i] << (32 - by))
    }

    #[inline(always)]
    fn lookup<const BITS: usize>(self, lookup: Lookup<'_>, table: usize, index: WordLanes) -> [f32; TILE_ROWS] {
        let table = flat(lookup.floats_of::<BITS>(table));
        index.map(|index| table[index as usize & ((1 << BITS) - 1)])
    }

    #[inline(always)]
    fn shares(self, _: &TilePalettes<'_>) -> Option<Infallible> {
        None
    }

    #[inline(always)]
    fn lookup_shared<const BITS: usize>(
        self,
        _: Lookup<'_>,
        shares: Infallible,
        _: Column,
        _: WordLanes,
    ) -> [f32; TILE_ROWS] {
        match shares {}
    }

    #[inline(always)]
    fn choose_from(self, lane: usize, low: [f32; TILE_ROWS], high: [f32; TILE_ROWS]) -> [f32; TILE_ROWS] {
        std::array::from_fn(|i| if i < lane { low[i] } else { high[i] })
    }
}
