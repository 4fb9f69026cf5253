//! Palettes in the form that the kernels look up in.

use crate::layout::{Layout, TileRows, TILE_ROWS};

/// Sixteen numbers that lie side by side.
pub(crate) type FloatLanes = [f32; TILE_ROWS];

/// Entries of a byte plane: what one register of the instructions that look up bytes holds.
const PLANE_ENTRIES: usize = if cfg!(target_arch = "aarch64") { 16 } else { 64 };

/// The same byte of [`PLANE_ENTRIES`] entries of a table.
pub(crate) type BytePlane = [u8; PLANE_ENTRIES];

/// Narrowest index for which tables are kept as byte planes too: all where there is no instruction that looks up an f32.
pub(crate) const PLANE_BITS: usize = if cfg!(target_arch = "aarch64") { 1 } else { 6 };

/// Rows of 16 in the table of one column of a palette.
const fn table_rows(bits: usize) -> usize {
    (1usize << bits).div_ceil(TILE_ROWS)
}

/// Byte planes of one column of a palette: for each of the four bytes of an f32, one for each [`PLANE_ENTRIES`].
const fn table_planes(bits: usize) -> usize {
    if bits < PLANE_BITS {
        0
    } else {
        4 * (1usize << bits).div_ceil(PLANE_ENTRIES)
    }
}

/// Lookup tables: for each group and each column of a palette vector, the `2^bits` values of that column.
///
/// Tables with fewer than 16 entries are repeated up to 16, so that a lookup may ignore what stands above the index in its
/// register. Memory: `groups x vector x max(2^bits, 16) x 4` bytes, and as much again with byte planes.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    floats: Vec<FloatLanes>,
    planes: Vec<BytePlane>,
    bits: usize,
    vector: usize,
}

/// Tables of consecutive palettes: for each palette, those of the columns of its vectors.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lookup<'a> {
    /// [`table_rows`] for each column.
    pub(crate) floats: &'a [FloatLanes],
    /// [`table_planes`] for each column: byte 0 of all entries, then byte 1, 2 and 3.
    pub(crate) planes: &'a [BytePlane],
}

/// One column of the vectors of numbers that a palette's entries are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// Numbers of a vector.
    pub(crate) vector: usize,
    /// Which of them.
    pub(crate) column: usize,
}

impl Column {
    /// That of a palette of single numbers.
    pub(crate) const ONLY: Column = Column { vector: 1, column: 0 };

    /// The column's table in palette `palette` of a [`Lookup`].
    #[inline(always)]
    pub(crate) fn table(self, palette: usize) -> usize {
        palette * self.vector + self.column
    }
}

impl<'a> Lookup<'a> {
    /// `max(2^BITS, 16)` numbers: table `table`.
    #[inline(always)]
    pub(crate) fn floats_of<const BITS: usize>(self, table: usize) -> &'a [FloatLanes] {
        &self.floats[table * table_rows(BITS)..][..table_rows(BITS)]
    }

    /// The byte planes of table `table`.
    #[inline(always)]
    pub(crate) fn planes_of<const BITS: usize>(self, table: usize) -> &'a [BytePlane] {
        &self.planes[table * table_planes(BITS)..][..table_planes(BITS)]
    }
}

/// The palettes that the rows of one tile use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TilePalettes<'a> {
    pub(crate) lookup: Lookup<'a>,
    /// Number of palettes, 1 to 16.
    pub(crate) groups: usize,
    /// First lane of each palette.
    pub(crate) first_lanes: [u8; TILE_ROWS],
}

impl TilePalettes<'_> {
    /// The palette of each of `RUNS` runs of lanes, unless there are two in one of them.
    pub(crate) fn of_runs<const RUNS: usize>(&self) -> Option<[usize; RUNS]> {
        let lanes = TILE_ROWS / RUNS;
        let mut palettes = [0; RUNS];
        for (group, &lane) in self.first_lanes.iter().enumerate().take(self.groups).skip(1) {
            let lane = usize::from(lane);
            if !lane.is_multiple_of(lanes) {
                return None;
            }
            palettes[lane / lanes..].fill(group);
        }
        Some(palettes)
    }
}

impl Tables {
    /// `palettes` is `[groups, 2^bits, vector]`.
    pub(crate) fn new(layout: &Layout, palettes: &[f32]) -> Self {
        let (bits, clusters, vector) = (layout.bits(), layout.spec.clusters(), layout.spec.vector);
        let mut floats = Vec::with_capacity(layout.groups * vector * table_rows(bits));
        let mut planes = Vec::with_capacity(layout.groups * vector * table_planes(bits));
        for palette in palettes.chunks_exact(clusters * vector) {
            for column in 0..vector {
                let entry = |i: usize| palette[i % clusters * vector + column];
                floats.extend((0..table_rows(bits)).map(|row| std::array::from_fn(|i| entry(row * TILE_ROWS + i))));
                let rows = table_planes(bits) / 4;
                let byte = |byte, row| std::array::from_fn(|i| entry(row * PLANE_ENTRIES + i).to_le_bytes()[byte]);
                planes.extend((0..4 * rows).map(|plane| byte(plane / rows, plane % rows)));
            }
        }
        Tables {
            floats,
            planes,
            bits,
            vector,
        }
    }

    /// Tables for the rows of a tile. Padding lanes look in the palette of the last row.
    pub(crate) fn of_tile(&self, layout: &Layout, rows: TileRows) -> TilePalettes<'_> {
        let (first, last) = (
            layout.group(rows.first_row),
            layout.group(rows.first_row + rows.len - 1),
        );
        let floats = self.vector * table_rows(self.bits);
        let planes = self.vector * table_planes(self.bits);
        let lookup = Lookup {
            floats: &self.floats[first * floats..(last + 1) * floats],
            planes: &self.planes[first * planes..(last + 1) * planes],
        };
        let groups = last - first + 1;
        let mut first_lanes = [0; TILE_ROWS];
        for (group, lane) in first_lanes.iter_mut().enumerate().take(groups).skip(1) {
            // Rows of a tile are consecutive, so this is a lane of the tile.
            *lane = ((first + group) * layout.group_rows - rows.first_row) as u8;
        }
        TilePalettes {
            lookup,
            groups,
            first_lanes,
        }
    }
}
