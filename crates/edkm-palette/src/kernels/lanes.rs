//! What a kernel asks of a processor: sixteen lanes, one for each row of a tile.

use crate::layout::WordLanes;
use crate::tables::FloatLanes;

/// Sixteen lanes of f32 and of u32. The implementing type is a token which proves that the processor has the instructions.
///
/// Methods are `#[inline(always)]` so that they become part of the function that enables the instructions.
pub(crate) trait Lanes: Copy {
    /// Sixteen f32.
    type Floats: Copy;
    /// Sixteen u32.
    type Words: Copy;

    fn splat(self, value: f32) -> Self::Floats;
    fn load(self, lanes: &FloatLanes) -> Self::Floats;
    fn store(self, value: Self::Floats, lanes: &mut FloatLanes);
    fn load_words(self, lanes: &WordLanes) -> Self::Words;
    fn store_words(self, value: Self::Words, lanes: &mut WordLanes);

    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// `value >> by`, `by` below 32 and constant after inlining.
    fn shift(self, value: Self::Words, by: u32) -> Self::Words;
    /// Low words of `(high:low) >> by`, `by` from 1 to 31 and constant after inlining.
    fn shift_pair(self, low: Self::Words, high: Self::Words, by: u32) -> Self::Words;

    /// `table[index]` in each lane, with the low `BITS` bits of `index`. `table` has `max(2^BITS, 16)` numbers.
    fn lookup<const BITS: usize>(self, table: &[FloatLanes], index: Self::Words) -> Self::Floats;

    /// `tables[starts[lane] + index]` in each lane, with the low `BITS` bits of `index`.
    #[inline(always)]
    fn lookup_per_row<const BITS: usize>(self, tables: &[f32], starts: &WordLanes, index: Self::Words) -> Self::Floats {
        let mut lanes = [0; 16];
        self.store_words(index, &mut lanes);
        let values = std::array::from_fn(|lane| tables[(starts[lane] + (lanes[lane] & ((1 << BITS) - 1))) as usize]);
        self.load(&values)
    }
}

/// Work that runs with some processor's lanes.
pub(crate) trait Job {
    /// Must be `#[inline(always)]`.
    fn run<L: Lanes>(self, lanes: L);
}
