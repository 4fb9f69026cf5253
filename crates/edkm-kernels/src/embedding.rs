//! Rows of a table by index, and the gradient of the table.

use crate::{
    check,
    lanes::dispatch,
    parallel::{self, rows_in_piece},
};

/// Below this many numbers a gradient is added by one thread: the ids need not be searched then.
const SERIAL: usize = 1 << 17;

/// Pieces that a table is cut into when its gradient is added by several threads. Each searches all the ids for its own.
const PIECES: usize = 32;

/// `out[n] = table[ids[n]]`. `table [V, H]`, `ids [N]`, `out [N, H]`; V and H follow from the lengths.
///
/// # Panics
///
/// If `table` is not whole rows of `out`'s width, or an id is not below V.
pub fn gather(table: &[f32], ids: &[u32], out: &mut [f32]) {
    let Some(width) = row_width(table, ids, out) else {
        return;
    };
    parallel::for_each_piece(out, rows_in_piece(width) * width, |first, out| {
        for (row, &id) in out.chunks_exact_mut(width).zip(&ids[first / width..]) {
            row.copy_from_slice(&table[id as usize * width..][..width]);
        }
    });
}

/// `grad_table[ids[n]] += grad_out[n]`. `grad_out [N, H]`, `grad_table [V, H]`.
///
/// A row that occurs several times gets its terms in the order of the tokens.
///
/// # Panics
///
/// As [`gather`].
pub fn scatter_add(ids: &[u32], grad_out: &[f32], grad_table: &mut [f32]) {
    let Some(width) = row_width(grad_table, ids, grad_out) else {
        return;
    };
    let rows = grad_table.len() / width;
    let pieces = if grad_out.len() < SERIAL { 1 } else { PIECES };
    let rows_in_piece = rows.div_ceil(pieces);
    parallel::for_each_piece(grad_table, rows_in_piece * width, |first, piece| {
        let first = first / width;
        let own = first..first + piece.len() / width;
        dispatch(
            #[inline(always)]
            || {
                for (&id, grad) in ids.iter().zip(grad_out.chunks_exact(width)) {
                    if own.contains(&(id as usize)) {
                        let row = &mut piece[(id as usize - own.start) * width..][..width];
                        row.iter_mut().zip(grad).for_each(|(row, &grad)| *row += grad);
                    }
                }
            },
        );
    });
}

/// The width of a row, or nothing when there are no tokens. Panics as [`gather`] says.
#[track_caller]
fn row_width(table: &[f32], ids: &[u32], rows: &[f32]) -> Option<usize> {
    if ids.is_empty() {
        check::len("rows [N, H]", rows, 0);
        return None;
    }
    assert!(
        rows.len().is_multiple_of(ids.len()),
        "{} numbers are not rows for {} ids",
        rows.len(),
        ids.len()
    );
    let width = rows.len() / ids.len();
    if width == 0 {
        return None;
    }
    assert!(
        table.len().is_multiple_of(width),
        "`table` holds {} numbers, not rows of {width}",
        table.len()
    );
    let vocabulary = table.len() / width;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
        panic!("id {id} is beyond a table of {vocabulary} rows");
    }
    Some(width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_same_for_any_pool, random};

    fn ids(n: usize, vocabulary: u32) -> Vec<u32> {
        // Small ids often, as in text.
        random(9, n)
            .into_iter()
            .map(|x| (x * x * x * x * vocabulary as f32) as u32)
            .map(|id| id.min(vocabulary - 1))
            .collect()
    }

    #[test]
    fn gathers_and_scatters_rows() {
        for (vocabulary, width, n) in [(5, 3, 7), (100, 64, 40), (1000, 130, 3000)] {
            let ids = ids(n, vocabulary);
            let table = random(1, vocabulary as usize * width);
            let mut out = vec![f32::NAN; n * width];
            gather(&table, &ids, &mut out);
            let before = random(2, table.len());
            let mut grad = before.clone();
            scatter_add(&ids, &out, &mut grad);
            let mut expected = before;
            for (n, &id) in ids.iter().enumerate() {
                for h in 0..width {
                    let number = table[id as usize * width + h];
                    assert_eq!(out[n * width + h], number);
                    // The same additions in the same order: the same bits.
                    expected[id as usize * width + h] += number;
                }
            }
            assert_eq!(grad, expected);
        }
    }

    #[test]
    fn does_not_depend_on_the_number_of_threads() {
        let (vocabulary, width, n) = (777, 100, 2000);
        let ids = ids(n, vocabulary);
        let grad = random(3, n * width);
        assert_same_for_any_pool("scatter_add", || {
            let mut table = vec![0.0; vocabulary as usize * width];
            scatter_add(&ids, &grad, &mut table);
            table
        });
    }

    #[test]
    #[should_panic(expected = "id 4 is beyond a table of 4 rows")]
    fn an_id_beyond_the_table_is_named() {
        gather(&[0.0; 8], &[0, 4], &mut [0.0; 4]);
    }
}
