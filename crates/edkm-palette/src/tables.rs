//! Palettes in the form that the kernels look up in.

use crate::layout::{Layout, TileRows, TILE_ROWS};

/// Sixteen numbers that lie side by side.
pub(crate) type FloatLanes = [f32; TILE_ROWS];

/// Lookup tables: for each group and each column of a palette vector, the `2^bits` values of that column.
///
/// Tables with fewer than 16 entries are repeated up to 16, so that a lookup may ignore what stands above the index in its
/// register. Memory: `groups x vector x max(2^bits, 16) x 4` bytes.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    data: Vec<FloatLanes>,
    /// Rows of 16 of one table.
    rows_per_table: usize,
    vector: usize,
}

/// The palettes that the rows of one tile use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TilePalette<'a> {
    /// All rows use one palette: `vector` tables, one after the other.
    Shared(&'a [FloatLanes]),
    /// Rows belong to several groups: where the first table of each row starts, counted in numbers.
    PerRow(&'a [f32], [u32; TILE_ROWS]),
}

impl Tables {
    /// `palettes` is `[groups, 2^bits, vector]`.
    pub(crate) fn new(layout: &Layout, palettes: &[f32]) -> Self {
        let (clusters, vector) = (layout.spec.clusters(), layout.spec.vector);
        let padded = clusters.max(TILE_ROWS);
        let mut data = Vec::with_capacity(layout.groups * vector * padded / TILE_ROWS);
        for palette in palettes.chunks_exact(clusters * vector) {
            for column in 0..vector {
                for first in (0..padded).step_by(TILE_ROWS) {
                    data.push(std::array::from_fn(|i| {
                        palette[(first + i) % clusters * vector + column]
                    }));
                }
            }
        }
        Tables {
            data,
            rows_per_table: padded / TILE_ROWS,
            vector,
        }
    }

    /// Tables of one group.
    pub(crate) fn group(&self, group: usize) -> &[FloatLanes] {
        let len = self.vector * self.rows_per_table;
        &self.data[group * len..(group + 1) * len]
    }

    /// Tables for the rows of a tile.
    pub(crate) fn of_tile(&self, layout: &Layout, rows: TileRows) -> TilePalette<'_> {
        let last_row = rows.first_row + rows.len - 1;
        let first_group = layout.group(rows.first_row);
        if first_group == layout.group(last_row) {
            return TilePalette::Shared(self.group(first_group));
        }
        let stride = self.vector * self.rows_per_table * TILE_ROWS;
        // Padding lanes look in the palette of the last row. Sixteen rows span at most 16 groups of 8 x 256 numbers: the
        // starts, counted from the first group, fit 32 bits.
        let starts = std::array::from_fn(|lane| {
            ((layout.group((rows.first_row + lane).min(last_row)) - first_group) * stride) as u32
        });
        let tables = &self.data[first_group * stride / TILE_ROWS..(layout.group(last_row) + 1) * stride / TILE_ROWS];
        TilePalette::PerRow(tables.as_flattened(), starts)
    }
}
