//! Where in a file there is room.

use std::collections::BTreeMap;

/// The free ranges of a file, neighbours joined. Everything from `end` on is free too.
#[derive(Debug, Default)]
pub(super) struct Extents {
    free: BTreeMap<u64, u64>,
    end: u64,
}

impl Extents {
    /// Finds room for `len` bytes: the first gap that is large enough, or the end of the file. Returns where it starts.
    pub(super) fn take(&mut self, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let Some((start, gap)) = self
            .free
            .iter()
            .find(|(_, gap)| **gap >= len)
            .map(|(start, gap)| (*start, *gap))
        else {
            let start = self.end;
            self.end += len;
            return start;
        };
        self.free.remove(&start);
        if gap > len {
            self.free.insert(start + len, gap - len);
        }
        start
    }

    /// Gives back a range that `take` returned.
    pub(super) fn give(&mut self, mut start: u64, mut len: u64) {
        if len == 0 {
            return;
        }
        if let Some((before, gap)) = self
            .free
            .range(..start)
            .next_back()
            .map(|(before, gap)| (*before, *gap))
        {
            if before + gap == start {
                self.free.remove(&before);
                (start, len) = (before, len + gap);
            }
        }
        if let Some(gap) = self.free.remove(&(start + len)) {
            len += gap;
        }
        if start + len == self.end {
            self.end = start;
        } else {
            self.free.insert(start, len);
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.end == 0 && self.free.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_in_use_never_overlap_and_all_come_back(steps in prop::collection::vec((any::<usize>(), 0u64..50), 1..200)) {
            let mut extents = Extents::default();
            let mut used: Vec<(u64, u64)> = Vec::new();
            for (choice, len) in steps {
                if choice % 3 == 0 && !used.is_empty() {
                    let (start, len) = used.swap_remove(choice / 3 % used.len());
                    extents.give(start, len);
                } else {
                    let start = extents.take(len);
                    for &(other, other_len) in &used {
                        prop_assert!(len == 0 || other_len == 0 || start + len <= other || other + other_len <= start);
                    }
                    used.push((start, len));
                }
                // No file is larger than what is in use and the gaps in it.
                let last = used.iter().map(|(start, len)| start + len).max().unwrap_or(0);
                prop_assert!(extents.end >= last);
            }
            for (start, len) in used {
                extents.give(start, len);
            }
            prop_assert!(extents.is_empty());
        }
    }

    #[test]
    fn a_step_that_frees_everything_starts_the_file_anew() {
        let mut extents = Extents::default();
        for _ in 0..200 {
            let starts = [10, 20, 30].map(|len| (extents.take(len), len));
            assert_eq!(starts.map(|(start, _)| start), [0, 10, 30]);
            for (start, len) in starts.into_iter().rev() {
                extents.give(start, len);
            }
        }
    }
}
