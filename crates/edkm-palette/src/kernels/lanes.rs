//! What a kernel asks of a processor: sixteen lanes, one for each row of a tile.

use crate::layout::WordLanes;
use crate::tables::{table_rows, FloatLanes, Lookup};

/// Sixteen lanes of f32 and of u32. The implementing type is a token which proves that the processor has the instructions.
///
/// Methods are `#[inline(always)]` so that they become part of the function that enables the instructions.
pub(crate) trait Lanes: Copy {
    /// Sixteen f32.
    type Floats: Copy;
    /// Sixteen u32.
    type Words: Copy;

    /// Inputs that a matrix product multiplies a tile with at once: as many as hide the latency of the multiply-add.
    const INPUTS: usize;
    /// Tiles that a matrix-vector product runs side by side, 1, 2 or 4: as many as the registers hold sums and palettes of.
    const TILES: usize;

    fn splat(self, value: f32) -> Self::Floats;
    fn load(self, lanes: &FloatLanes) -> Self::Floats;
    fn store(self, value: Self::Floats, lanes: &mut FloatLanes);
    fn load_words(self, lanes: &WordLanes) -> Self::Words;

    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// `value >> by`, `by` below 32.
    fn shift(self, value: Self::Words, by: usize) -> Self::Words;
    /// Low words of `(high:low) >> by`, `by` from 1 to 31.
    fn shift_pair(self, low: Self::Words, high: Self::Words, by: usize) -> Self::Words;

    /// `table[index]` in each lane, with the low `BITS` bits of `index`. `table` has `max(2^BITS, 16)` numbers.
    fn lookup<const BITS: usize>(self, table: &[FloatLanes], index: Self::Words) -> Self::Floats;

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
        let table = &lookup.floats[table * table_rows(BITS)..][..table_rows(BITS)];
        [
            self.lookup::<BITS>(table, indices),
            self.lookup::<BITS>(table, self.shift(indices, BITS)),
            self.lookup::<BITS>(table, self.shift(indices, 2 * BITS)),
            self.lookup::<BITS>(table, self.shift(indices, 3 * BITS)),
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
