//! What a kernel asks of a processor: sixteen lanes, one for each row of a tile.

use crate::layout::WordLanes;
use crate::tables::{Column, FloatLanes, Lookup, TilePalettes};

/// Sixteen lanes of f32 and of u32. The implementing type is a token which proves that the processor has the instructions.
///
/// Methods are `#[inline(always)]` so that they become part of the function that enables the instructions.
pub(crate) trait Lanes: Copy {
    /// Sixteen f32.
    type Floats: Copy;
    /// Sixteen u32.
    type Words: Copy;
    /// Which of a tile's palettes each lane looks in.
    type Shares: Copy;

    /// Inputs that a matrix product multiplies a tile with at once: as many as hide the latency of the multiply-add.
    const INPUTS: usize;
    /// Tiles that a matrix-vector product runs side by side, 1, 2 or 4: as many as the registers hold sums and palettes of.
    const TILES: usize;
    /// Whether a matrix-vector product goes from the words to the sums in registers, not by way of an unpacked panel in memory.
    const IN_REGISTERS: bool;
    /// Widest index that a matrix-vector product looks up alone, an instruction or two each, in unrolled code. Wider ones are looked
    /// up by fours.
    const SINGLE_BITS: usize;

    /// Runs a job in a function of its own, with the instructions enabled.
    fn run<J: Job, const BITS: usize>(self, job: J);

    fn splat(self, value: f32) -> Self::Floats;
    fn load(self, lanes: &FloatLanes) -> Self::Floats;
    fn store(self, value: Self::Floats, lanes: &mut FloatLanes);
    fn load_words(self, lanes: &WordLanes) -> Self::Words;
    /// Asks for the cache line at an address, if anything is there.
    fn prefetch(self, address: *const WordLanes);

    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// `value >> by`, `by` below 32.
    fn shift(self, value: Self::Words, by: usize) -> Self::Words;
    /// Low words of `(high:low) >> by`, `by` from 1 to 31.
    fn shift_pair(self, low: Self::Words, high: Self::Words, by: usize) -> Self::Words;

    /// The entry of table `table` that the low `BITS` bits of `index` choose, in each lane.
    fn lookup<const BITS: usize>(self, lookup: Lookup<'_>, table: usize, index: Self::Words) -> Self::Floats;

    /// Which palette each lane looks in, where [`Self::lookup_shared`] can do that.
    fn shares(self, palettes: &TilePalettes<'_>) -> Option<Self::Shares>;

    /// As [`Self::lookup`], each lane in its own palette's table for `column`.
    fn lookup_shared<const BITS: usize>(
        self,
        lookup: Lookup<'_>,
        shares: Self::Shares,
        column: Column,
        index: Self::Words,
    ) -> Self::Floats;

    /// As [`Self::lookup_four`], each lane in its own palette's table for `column`.
    #[inline(always)]
    fn lookup_four_shared<const BITS: usize>(
        self,
        lookup: Lookup<'_>,
        shares: Self::Shares,
        column: Column,
        indices: Self::Words,
    ) -> [Self::Floats; 4] {
        let [a, b, c, d] = self.shift_four::<BITS>(indices);
        [
            self.lookup_shared::<BITS>(lookup, shares, column, a),
            self.lookup_shared::<BITS>(lookup, shares, column, b),
            self.lookup_shared::<BITS>(lookup, shares, column, c),
            self.lookup_shared::<BITS>(lookup, shares, column, d),
        ]
    }

    /// `high` in the lanes from `lane` on, `low` in those before.
    fn choose_from(self, lane: usize, low: Self::Floats, high: Self::Floats) -> Self::Floats;

    /// Lookups of four indices, which lie side by side in the low bits of each lane, in table `table`.
    #[inline(always)]
    fn lookup_four<const BITS: usize>(
        self,
        lookup: Lookup<'_>,
        table: usize,
        indices: Self::Words,
    ) -> [Self::Floats; 4] {
        let [a, b, c, d] = self.shift_four::<BITS>(indices);
        [
            self.lookup::<BITS>(lookup, table, a),
            self.lookup::<BITS>(lookup, table, b),
            self.lookup::<BITS>(lookup, table, c),
            self.lookup::<BITS>(lookup, table, d),
        ]
    }

    /// Four indices that lie side by side, each in the low bits of a register of its own.
    #[inline(always)]
    fn shift_four<const BITS: usize>(self, indices: Self::Words) -> [Self::Words; 4] {
        [
            indices,
            self.shift(indices, BITS),
            self.shift(indices, 2 * BITS),
            self.shift(indices, 3 * BITS),
        ]
    }
}

/// Work that runs with some processor's lanes.
pub(crate) trait Job {
    /// Width of the indices, 1 to 8.
    fn bits(&self) -> usize;

    /// Must be `#[inline(always)]`.
    fn run<L: Lanes, const BITS: usize>(self, lanes: L);
}
