//! Finding equal rows.

use xxhash_rust::xxh3::xxh3_64;

/// Distinct rows, numbered in order of first appearance.
pub(super) struct Grouping {
    /// Where each distinct row first appears.
    pub(super) first_rows: Vec<u32>,
    pub(super) numbers: Numbers,
}

/// The number of each row's distinct row.
pub(super) enum Numbers {
    /// By key, 65,536 of them.
    OfKeys(Vec<u32>),
    /// By row.
    OfRows(Vec<u32>),
}

/// No row.
const NONE: u32 = u32::MAX;

impl Grouping {
    /// One pass over the rows; `None` when there is not one key for each row, or rows with equal keys differ.
    pub(super) fn by_key(rows: &[u8], row_bytes: usize, keys: &[u16]) -> Option<Self> {
        if rows.len() / row_bytes != keys.len() {
            return None;
        }
        match row_bytes {
            4 => Self::by_key_of::<4>(rows, keys),
            8 => Self::by_key_of::<8>(rows, keys),
            16 => Self::by_key_of::<16>(rows, keys),
            32 => Self::by_key_of::<32>(rows, keys),
            64 => Self::by_key_of::<64>(rows, keys),
            _ => {
                let row = |i: u32| &rows[i as usize * row_bytes..][..row_bytes];
                Self::by_key_with(keys, |a, b| row(a) == row(b))
            }
        }
    }

    /// Rows of a length that the compiler knows are compared without a call.
    fn by_key_of<const ROW: usize>(rows: &[u8], keys: &[u16]) -> Option<Self> {
        let (rows, _) = rows.as_chunks::<ROW>();
        Self::by_key_with(keys, |a, b| rows[a as usize] == rows[b as usize])
    }

    fn by_key_with(keys: &[u16], equal: impl Fn(u32, u32) -> bool) -> Option<Self> {
        let mut number_of_key = vec![NONE; 1 << 16];
        let mut first_rows = Vec::new();
        for (row, &key) in (0..).zip(keys) {
            let number = &mut number_of_key[usize::from(key)];
            if *number == NONE {
                *number = first_rows.len() as u32;
                first_rows.push(row);
            } else if !equal(first_rows[*number as usize], row) {
                return None;
            }
        }
        Some(Self {
            first_rows,
            numbers: Numbers::OfKeys(number_of_key),
        })
    }

    /// Hashes every row. Gives up when `worthwhile(distinct rows, bits of the index)` can no longer become true, or when
    /// from 2^17 rows on more than three in four were new: at this rate it hardly will.
    pub(super) fn by_content(rows: &[u8], row_bytes: usize, worthwhile: &impl Fn(usize, u32) -> bool) -> Option<Self> {
        const TRIAL: usize = 1 << 17;
        let row = |i: u32| &rows[i as usize * row_bytes..][..row_bytes];
        let mut slots = Slots::new();
        let mut first_rows = Vec::new();
        let mut numbers = Vec::with_capacity(rows.len() / row_bytes);
        for i in 0..(rows.len() / row_bytes) as u32 {
            let hash = xxh3_64(row(i));
            let number = slots.find(hash, |number| row(first_rows[number as usize]) == row(i));
            let number = number.unwrap_or_else(|| {
                slots.insert(hash, first_rows.len() as u32);
                first_rows.push(i);
                first_rows.len() as u32 - 1
            });
            numbers.push(number);
            let seen = numbers.len();
            if seen.is_power_of_two() {
                let distinct = first_rows.len();
                let hopeless = seen >= TRIAL && distinct > seen / 4 * 3;
                if hopeless || !worthwhile(distinct, super::bits::needed(distinct)) {
                    return None;
                }
            }
        }
        Some(Self {
            first_rows,
            numbers: Numbers::OfRows(numbers),
        })
    }
}

/// A hash table of numbers with linear probing. The hash stands beside each number, so that almost every row that is
/// compared is equal and growing hashes nothing again.
struct Slots {
    slots: Vec<(u64, u32)>,
    used: usize,
}

impl Slots {
    fn new() -> Self {
        Self {
            slots: vec![(0, NONE); 1 << 10],
            used: 0,
        }
    }

    /// The slot that holds what is sought, or the free one where it belongs.
    fn slot(&self, hash: u64, sought: impl Fn(u32) -> bool) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        // At most half of the slots are taken, so the search ends.
        loop {
            let (other, number) = self.slots[slot];
            if number == NONE || (other == hash && sought(number)) {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn find(&self, hash: u64, sought: impl Fn(u32) -> bool) -> Option<u32> {
        let (_, number) = self.slots[self.slot(hash, sought)];
        (number != NONE).then_some(number)
    }

    /// Adds a number that is not in the table.
    fn insert(&mut self, hash: u64, number: u32) {
        if self.used * 2 >= self.slots.len() {
            let larger = vec![(0, NONE); self.slots.len() * 2];
            for (hash, number) in std::mem::replace(&mut self.slots, larger) {
                if number != NONE {
                    self.place(hash, number);
                }
            }
        }
        self.place(hash, number);
        self.used += 1;
    }

    fn place(&mut self, hash: u64, number: u32) {
        let slot = self.slot(hash, |_| false);
        self.slots[slot] = (hash, number);
    }
}
