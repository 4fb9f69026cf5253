//! Sixteen lanes as arrays: the path of any processor, and the reference for the others.

use std::convert::Infallible;

use super::fused;
use super::lanes::{Job, Lanes};
use crate::layout::{WordLanes, TILE_ROWS};
use crate::tables::{Column, FloatLanes, Lookup, TilePalettes};

/// Plain arrays; always there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

impl Lanes for Portable {
    type Floats = FloatLanes;
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
    fn splat(self, value: f32) -> FloatLanes {
        [value; TILE_ROWS]
    }

    #[inline(always)]
    fn load(self, lanes: &FloatLanes) -> FloatLanes {
        *lanes
    }

    #[inline(always)]
    fn store(self, value: FloatLanes, lanes: &mut FloatLanes) {
        *lanes = value;
    }

    #[inline(always)]
    fn load_words(self, lanes: &WordLanes) -> WordLanes {
        *lanes
    }

    #[inline(always)]
    fn prefetch(self, _: *const WordLanes) {}

    #[inline(always)]
    fn add(self, a: FloatLanes, b: FloatLanes) -> FloatLanes {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn fma(self, a: FloatLanes, b: FloatLanes, c: FloatLanes) -> FloatLanes {
        std::array::from_fn(|i| fused::mul_add(a[i], b[i], c[i]))
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
    fn lookup<const BITS: usize>(self, lookup: Lookup<'_>, table: usize, index: WordLanes) -> FloatLanes {
        let table = lookup.floats_of::<BITS>(table).as_flattened();
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
    ) -> FloatLanes {
        match shares {}
    }

    #[inline(always)]
    fn choose_from(self, lane: usize, low: FloatLanes, high: FloatLanes) -> FloatLanes {
        std::array::from_fn(|i| if i < lane { low[i] } else { high[i] })
    }
}
