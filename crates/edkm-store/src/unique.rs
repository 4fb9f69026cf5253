//! Uniquification of rows (eDKM, arXiv 2309.00964, section 2): a table of distinct rows and an index for each row.

mod bits;
mod group;

use std::fmt;

use group::Grouping;

/// Rows of equal length, taken apart into the distinct ones and a packed index. What it describes is exactly what it was
/// made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    /// For each distinct row, in order of first appearance, where it first appears.
    pub first_rows: Vec<u32>,
    /// For each row the number of its distinct row, in `bits` bits, least significant first, without gaps. With 8 or 16
    /// bits that is an array of `u8` or little-endian `u16`.
    pub index: Vec<u8>,
    /// Bits of one entry of the index: as few as the number of distinct rows allows, 0 when all rows are equal.
    pub bits: u32,
}

/// What is wrong with a table and an index that do not belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpandError {
    /// The first row for which the index names no row of the table, or the first that it does not reach.
    pub row: usize,
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the index names no row of the table for row {}", self.row)
    }
}

impl std::error::Error for ExpandError {}

/// A saving below this part of the original (a sixteenth) is not worth two blobs.
const WORTHWHILE: usize = 16;

impl Unique {
    /// Takes `rows`, each of `row_bytes` bytes, apart. `None` when table and index together would not be smaller by a
    /// sixteenth, when there are 2^32 rows or more, or when `row_bytes` is 0.
    ///
    /// With one key for each row, where equal keys promise equal rows, it is one pass over the rows without hashing; a
    /// promise that is broken is noticed, and the rows are hashed. The index depends on the keys alone then, so that it is
    /// the same for every tensor with these keys.
    ///
    /// Memory beside the result: 256 KiB when there are keys, and else 4 bytes a row and up to 100 bytes a distinct row, of which there are looked for no more than
    /// are worthwhile.
    pub fn of_rows(rows: &[u8], row_bytes: usize, keys: Option<&[u16]>) -> Option<Self> {
        if row_bytes == 0 || rows.len() / row_bytes > u32::MAX as usize || !rows.len().is_multiple_of(row_bytes) {
            return None;
        }
        let worthwhile = |distinct: usize, bits: u32| {
            let count = rows.len() / row_bytes;
            distinct * row_bytes + bits::packed_len(count, bits) < rows.len() - rows.len() / WORTHWHILE
        };
        let grouping = keys
            .and_then(|keys| Grouping::by_key(rows, row_bytes, keys))
            .or_else(|| Grouping::by_content(rows, row_bytes, &worthwhile))?;
        let bits = bits::needed(grouping.first_rows.len());
        if !worthwhile(grouping.first_rows.len(), bits) {
            return None;
        }
        let index = match grouping.numbers {
            group::Numbers::OfKeys(number_of_key) => bits::pack(
                keys.unwrap_or_default()
                    .iter()
                    .map(|&key| number_of_key[usize::from(key)]),
                bits,
            ),
            group::Numbers::OfRows(numbers) => bits::pack(numbers.into_iter(), bits),
        };
        Some(Self {
            first_rows: grouping.first_rows,
            index,
            bits,
        })
    }

    /// Writes the distinct rows of `rows` into `table`, which has the length of `first_rows.len()` rows.
    pub(crate) fn copy_table(&self, rows: &[u8], row_bytes: usize, table: &mut [u8]) {
        for (row, &first) in table.chunks_exact_mut(row_bytes).zip(&self.first_rows) {
            row.copy_from_slice(&rows[first as usize * row_bytes..][..row_bytes]);
        }
    }
}

/// Puts the rows together again: row i of `rows` becomes row `index[i]` of `table`. All rows have `row_bytes` bytes.
///
/// # Errors
/// The index is too short, or names a row that the table has not. Bytes of `rows` behind its last whole row are left as they are.
pub fn expand(table: &[u8], row_bytes: usize, index: &[u8], bits: u32, rows: &mut [u8]) -> Result<(), ExpandError> {
    match row_bytes {
        0 => Ok(()),
        2 => expand_rows::<2>(table, index, bits, rows),
        4 => expand_rows::<4>(table, index, bits, rows),
        8 => expand_rows::<8>(table, index, bits, rows),
        16 => expand_rows::<16>(table, index, bits, rows),
        32 => expand_rows::<32>(table, index, bits, rows),
        64 => expand_rows::<64>(table, index, bits, rows),
        _ => {
            let rows = rows.chunks_exact_mut(row_bytes);
            let numbers = bits::unpack(index, bits, rows.len());
            let table_row = |number: u32| table.get(number as usize * row_bytes..)?.get(..row_bytes);
            fill(rows, numbers, |row, number| {
                table_row(number).map(|from| row.copy_from_slice(from))
            })
        }
    }
}

/// Rows of a length that the compiler knows are copied without a call.
fn expand_rows<const ROW: usize>(table: &[u8], index: &[u8], bits: u32, rows: &mut [u8]) -> Result<(), ExpandError> {
    let (table, _) = table.as_chunks::<ROW>();
    let (rows, _) = rows.as_chunks_mut::<ROW>();
    let numbers = bits::unpack(index, bits, rows.len());
    fill(rows.iter_mut(), numbers, |row, number| {
        table.get(number as usize).map(|from| *row = *from)
    })
}

fn fill<R>(
    rows: impl ExactSizeIterator<Item = R>,
    mut numbers: impl Iterator<Item = u32>,
    put: impl Fn(R, u32) -> Option<()>,
) -> Result<(), ExpandError> {
    for (i, row) in rows.enumerate() {
        numbers
            .next()
            .and_then(|number| put(row, number))
            .ok_or(ExpandError { row: i })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
