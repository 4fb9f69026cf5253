//! Indices to packed words and back, one at a time.

use rayon::prelude::*;

use crate::layout::{Layout, WordLanes, TILE_ROWS};

/// Packs `[rows, indices_per_row]` indices, each below `2^bits`. Padding is zero.
pub(crate) fn pack(layout: &Layout, indices: &[u8]) -> Vec<u32> {
    let bits = layout.bits();
    let mut words = vec![0u32; layout.words()];
    words
        .par_chunks_mut(layout.words_per_row * TILE_ROWS)
        .enumerate()
        .for_each(|(tile, words)| {
            for (lane, row) in layout.tile_rows(tile).range().enumerate() {
                let row_indices = &indices[row * layout.indices_per_row..(row + 1) * layout.indices_per_row];
                for (position, &index) in row_indices.iter().enumerate() {
                    let (word, shift) = (position * bits / 32, position * bits % 32);
                    let wide = u64::from(index) << shift;
                    words[word * TILE_ROWS + lane] |= wide as u32;
                    if shift + bits > 32 {
                        words[(word + 1) * TILE_ROWS + lane] |= (wide >> 32) as u32;
                    }
                }
            }
        });
    words
}

/// Reads the indices of one row in order.
pub(crate) struct RowReader<'a> {
    /// Words of the row's tile.
    words: &'a [WordLanes],
    lane: usize,
    bits: u32,
    next_word: usize,
    /// Bits that are read but not used, lowest first, and their number.
    pending: u64,
    available: u32,
}

impl<'a> RowReader<'a> {
    pub(crate) fn new(layout: &Layout, words: &'a [WordLanes], row: usize) -> Self {
        let (tile, lane) = layout.place(row);
        let words = words.get(layout.tile_words(tile)).unwrap_or_default();
        RowReader {
            words,
            lane,
            bits: u32::from(layout.spec.bits),
            next_word: 0,
            pending: 0,
            available: 0,
        }
    }

    /// The next index; zero past the end of the row.
    #[inline]
    pub(crate) fn next_index(&mut self) -> u8 {
        if self.available < self.bits {
            let word = self.words.get(self.next_word).map_or(0, |lanes| lanes[self.lane]);
            self.pending |= u64::from(word) << self.available;
            self.available += 32;
            self.next_word += 1;
        }
        let index = self.pending as u32 & ((1 << self.bits) - 1);
        self.pending >>= self.bits;
        self.available -= self.bits;
        index as u8
    }
}
