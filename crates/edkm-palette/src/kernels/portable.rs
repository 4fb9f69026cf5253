//! Sixteen lanes as arrays: the path of any processor, and the reference for the others.

use super::lanes::{Job, Lanes};
use crate::layout::WordLanes;
use crate::tables::FloatLanes;

/// Plain arrays; always there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

impl Portable {
    /// Runs a job.
    #[inline(never)]
    pub(crate) fn run<J: Job, const BITS: usize>(self, job: J) {
        job.run::<Portable, BITS>(self);
    }
}

impl Lanes for Portable {
    type Floats = FloatLanes;
    type Words = WordLanes;

    const INPUTS: usize = 1;
    const TILES: usize = 1;

    #[inline(always)]
    fn splat(self, value: f32) -> FloatLanes {
        [value; 16]
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
    fn add(self, a: FloatLanes, b: FloatLanes) -> FloatLanes {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn fma(self, a: FloatLanes, b: FloatLanes, c: FloatLanes) -> FloatLanes {
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
    fn lookup<const BITS: usize>(self, table: &[FloatLanes], index: WordLanes) -> FloatLanes {
        let table = table.as_flattened();
        index.map(|index| table[index as usize & ((1 << BITS) - 1)])
    }

    #[inline(always)]
    fn choose_from(self, lane: usize, low: FloatLanes, high: FloatLanes) -> FloatLanes {
        std::array::from_fn(|i| if i < lane { low[i] } else { high[i] })
    }
}
