//! Where each index of a matrix lies among the packed words.
//!
//! See the crate's documentation for the layout in words.

use std::ops::Range;

use crate::{PaletteError, PaletteSpec};

/// Rows of a tile: the words of this many rows stand side by side.
pub const TILE_ROWS: usize = 16;

/// One word of each row of a tile.
pub(crate) type WordLanes = [u32; TILE_ROWS];

/// Sizes of a packed matrix, all checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) spec: PaletteSpec,
    /// Rows of a palette group; `rows` when there is one palette.
    pub(crate) group_rows: usize,
    pub(crate) groups: usize,
    /// Row slots that a group takes: `group_rows`, or more where groups start at a tile of their own.
    pub(crate) group_slots: usize,
    pub(crate) indices_per_row: usize,
    pub(crate) words_per_row: usize,
    pub(crate) tiles: usize,
}

/// The rows of one tile. They are consecutive; lanes from `len` on are padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TileRows {
    pub(crate) first_row: usize,
    pub(crate) len: usize,
}

impl TileRows {
    pub(crate) fn range(self) -> Range<usize> {
        self.first_row..self.first_row + self.len
    }
}

impl Layout {
    pub(crate) fn new(rows: usize, cols: usize, spec: PaletteSpec) -> Result<Self, PaletteError> {
        spec.validate()?;
        if rows == 0 || cols == 0 {
            return Err(PaletteError::Empty { rows, cols });
        }
        if !cols.is_multiple_of(spec.vector) {
            return Err(PaletteError::Columns {
                cols,
                vector: spec.vector,
            });
        }
        let too_large = |what| PaletteError::TooLarge { rows, cols, what };
        // Dequantized, the matrix has to be addressable in bytes as f32; most other sizes follow from that.
        let weights = rows.checked_mul(cols).ok_or(too_large("the number of weights"))?;
        if weights.checked_mul(4).is_none_or(|bytes| bytes > isize::MAX as usize) {
            return Err(too_large("the number of weights"));
        }

        // A group longer than the matrix is the whole matrix.
        let group_rows = spec.group_rows.map_or(rows, |group_rows| group_rows.get().min(rows));
        let groups = rows.div_ceil(group_rows);
        let padded = group_rows.div_ceil(TILE_ROWS) * TILE_ROWS;
        // Padding at the end of a single group is the tile's own.
        let group_slots = if groups > 1 && padded - group_rows <= group_rows / 8 {
            padded
        } else {
            group_rows
        };
        let last_group_rows = rows - (groups - 1) * group_rows;
        let slots = (groups - 1)
            .checked_mul(group_slots)
            .and_then(|slots| slots.checked_add(last_group_rows))
            .ok_or(too_large("the number of row slots"))?;

        let indices_per_row = cols / spec.vector;
        let words_per_row = indices_per_row
            .checked_mul(usize::from(spec.bits))
            .ok_or(too_large("the number of bits of a row"))?
            .div_ceil(32);
        let tiles = slots.div_ceil(TILE_ROWS);
        let layout = Layout {
            rows,
            cols,
            spec,
            group_rows,
            groups,
            group_slots,
            indices_per_row,
            words_per_row,
            tiles,
        };
        tiles
            .checked_mul(words_per_row)
            .and_then(|lanes| lanes.checked_mul(TILE_ROWS * 4))
            .filter(|&bytes| bytes <= isize::MAX as usize)
            .ok_or(too_large("the number of packed bytes"))?;
        // The kernels' tables hold at least 16 entries a palette, 4 bytes each.
        groups
            .checked_mul(spec.vector * spec.clusters().max(TILE_ROWS) * 4)
            .filter(|&bytes| bytes <= isize::MAX as usize)
            .ok_or(too_large("the number of palette bytes"))?;
        Ok(layout)
    }

    /// Width of an index.
    pub(crate) fn bits(&self) -> usize {
        usize::from(self.spec.bits)
    }

    /// Packed words of the whole matrix.
    pub(crate) fn words(&self) -> usize {
        self.tiles * self.words_per_row * TILE_ROWS
    }

    /// Numbers of all palettes.
    pub(crate) fn palette_len(&self) -> usize {
        self.groups * self.spec.palette_len()
    }

    /// Group of a row.
    pub(crate) fn group(&self, row: usize) -> usize {
        row / self.group_rows
    }

    /// Tile and lane of a row.
    pub(crate) fn place(&self, row: usize) -> (usize, usize) {
        let slot = self.group(row) * self.group_slots + row % self.group_rows;
        (slot / TILE_ROWS, slot % TILE_ROWS)
    }

    /// Rows of a tile.
    pub(crate) fn tile_rows(&self, tile: usize) -> TileRows {
        let slot = tile * TILE_ROWS;
        if self.group_slots == self.group_rows {
            return TileRows {
                first_row: slot,
                len: TILE_ROWS.min(self.rows - slot),
            };
        }
        let (group, local) = (slot / self.group_slots, slot % self.group_slots);
        let first_row = group * self.group_rows + local;
        let end = (group + 1).saturating_mul(self.group_rows).min(self.rows);
        TileRows {
            first_row,
            len: TILE_ROWS.min(end - first_row),
        }
    }

    /// Words of a tile among the words of the matrix, counted in rows of 16.
    pub(crate) fn tile_words(&self, tile: usize) -> Range<usize> {
        tile * self.words_per_row..(tile + 1) * self.words_per_row
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn layout(rows: usize, group_rows: Option<usize>) -> Layout {
        let spec = PaletteSpec {
            group_rows: group_rows.and_then(NonZeroUsize::new),
            ..PaletteSpec::new(3)
        };
        Layout::new(rows, 40, spec).unwrap()
    }

    #[test]
    fn every_row_has_one_place_and_its_tile_knows_it() {
        for rows in [1, 15, 16, 17, 100, 257] {
            for group in [
                None,
                Some(1),
                Some(3),
                Some(8),
                Some(15),
                Some(16),
                Some(24),
                Some(31),
                Some(120),
                Some(999),
            ] {
                let layout = layout(rows, group);
                let mut seen = 0;
                for tile in 0..layout.tiles {
                    let tile_rows = layout.tile_rows(tile);
                    assert_eq!(tile_rows.first_row, seen, "rows {rows} group {group:?} tile {tile}");
                    assert!((1..=16).contains(&tile_rows.len));
                    for lane in 0..tile_rows.len {
                        assert_eq!(layout.place(tile_rows.first_row + lane), (tile, lane));
                    }
                    seen += tile_rows.len;
                }
                assert_eq!(seen, rows);
            }
        }
    }

    #[test]
    fn groups_are_padded_only_where_it_costs_little() {
        assert_eq!(layout(256, Some(8)).tiles, 16);
        assert_eq!(layout(256, Some(24)).tiles, 16);
        // 15 rows and a padding of 1 would be 1/15 more, over the one eighth rounded down (1): padded.
        assert_eq!(layout(150, Some(15)).tiles, 10);
        assert_eq!(layout(256, Some(120)).tiles, 8 + 8 + 1);
        assert_eq!(layout(256, None).tiles, 16);
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let spec = PaletteSpec::new(3);
        assert!(matches!(
            Layout::new(usize::MAX, 2, spec),
            Err(PaletteError::TooLarge { .. })
        ));
        assert!(matches!(
            Layout::new(usize::MAX / 8, 2, spec),
            Err(PaletteError::TooLarge { .. })
        ));
        let grouped = PaletteSpec {
            group_rows: NonZeroUsize::new(1),
            ..PaletteSpec::new(8)
        };
        assert!(matches!(
            Layout::new(1 << 55, 1, grouped),
            Err(PaletteError::TooLarge { .. })
        ));
    }
}
