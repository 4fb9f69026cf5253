//! What the forward pass leaves on the device.

use std::ops::Range;
use std::sync::Mutex;

use super::Settings;
use crate::clustering::{Palettes, KEYS};
use crate::{check, Array, Runtime, Slice};

/// What the forward pass of large palettes leaves on the device, so that [`clustered`](super::clustered) and
/// [`backward_accumulate`](super::backward_accumulate) need not make it again: counts and tables by key, 512 KiB a palette, and the records. Of a matrix of
/// 64 MiB that is less than a hundredth, of one of 1 MiB, the smallest, half. And the clustered weights, until they are asked for.
pub struct Kept<R: Runtime> {
    pub(super) palettes: usize,
    pub(super) weights: usize,
    pub(super) settings: Settings,
    /// Records and counts, among others: see `Places`.
    pub(super) memory: Array<R, u64>,
    pub(super) places: Places,
    pub(super) tables: Array<R, f32>,
    pub(super) clustered: Mutex<Option<Array<R, f32>>>,
}

impl<R: Runtime> Kept<R> {
    /// Bytes on the device, but for the clustered weights.
    pub fn bytes(&self) -> usize {
        8 * self.memory.as_slice().len() + 4 * self.tables.as_slice().len()
    }

    /// # Panics
    /// If it was kept of a matrix of other palettes, or under other settings.
    pub(super) fn check_for(&self, weights: Palettes<'_>, settings: Settings) {
        check::len("palettes that were kept", self.palettes, weights.palettes());
        check::len("clustered weights that were kept", self.weights, weights.len());
        assert!(
            self.settings == settings,
            "what was kept is of {:?}, not of {settings:?}",
            self.settings
        );
    }

    pub(super) fn records(&self) -> Slice<'_, f64> {
        let Places { records, .. } = &self.places;
        self.memory.as_slice().part(records.start, records.len()).cast()
    }

    pub(super) fn counts(&self) -> Slice<'_, u32> {
        let Places { counts, .. } = &self.places;
        self.memory.as_slice().part(counts.start, counts.len()).cast()
    }
}

/// Where what the forward pass makes lies, in 8-byte numbers: what is read back first. One piece of memory, since every piece takes time of its own.
pub(super) struct Places {
    pub(super) digest: Range<usize>,
    pub(super) magnitudes: Range<usize>,
    pub(super) records: Range<usize>,
    pub(super) tickets: Range<usize>,
    pub(super) counts: Range<usize>,
}

impl Places {
    /// Counts of more than one part are not there together, and have no place.
    pub(super) fn new(palettes: usize, settings: Settings) -> Self {
        let of_part = palettes.min(settings.most_at_once());
        let counted = if of_part == palettes { palettes } else { 0 };
        let mut end = 0;
        let mut next = |len| {
            end += len;
            end - len..end
        };
        Places {
            digest: next(2),
            magnitudes: next(palettes.div_ceil(2)),
            records: next(palettes * settings.record_len()),
            tickets: next(of_part.div_ceil(2)),
            counts: next(counted * KEYS / 2),
        }
    }

    pub(super) fn lens(&self) -> [usize; 5] {
        let Places {
            digest,
            magnitudes,
            records,
            tickets,
            counts,
        } = self;
        [digest, magnitudes, records, tickets, counts].map(Range::len)
    }
}
