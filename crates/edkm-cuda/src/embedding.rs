//! Rows of a table by index, as `edkm_kernels::embedding`.
#![allow(unsafe_code)]

use crate::runtime::blocks_for;
use crate::Argument::Size;
use crate::{check, Array, Runtime, Slice, SliceMut};

/// `out[n] = table[ids[n]]`. `table [V, H]`, `ids [N]`, `out [N, H]`.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// If an id is not below V.
pub fn gather<R: Runtime>(
    runtime: &R,
    table: Slice<'_, f32>,
    ids: &[u32],
    out: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let Some(width) = row_width(table.len(), ids, out.len()) else {
        return Ok(());
    };
    let ids = Array::from_host(runtime, ids)?;
    gather_rows(runtime, table, ids.as_slice(), width, out)
}

/// [`gather`] by indices in the device's memory, which are known to be below V.
pub(crate) fn gather_rows<R: Runtime>(
    runtime: &R,
    table: Slice<'_, f32>,
    ids: Slice<'_, u32>,
    width: usize,
    mut out: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    check::shape("out [N, H]", out.len(), [ids.len(), width]);
    let len = out.len();
    let arguments = [table.argument(), ids.argument(), out.argument(), Size(width), Size(len)];
    // SAFETY: edkm_gather_rows(table, ids, out, width, len) reaches len / width ids, `len` numbers of out, and the rows `ids` of the table, which
    // the caller knows to be in it.
    unsafe { runtime.launch("edkm_gather_rows", blocks_for(len), &arguments) }
}

/// `to[ids[n]] += from[n]` for indices that differ from each other and are known to be below the rows of `to`.
pub(crate) fn scatter_rows<R: Runtime>(
    runtime: &R,
    mut to: SliceMut<'_, f32>,
    ids: Slice<'_, u32>,
    width: usize,
    from: Slice<'_, f32>,
) -> Result<(), R::Error> {
    check::shape("from [N, H]", from.len(), [ids.len(), width]);
    let len = from.len();
    let arguments = [to.argument(), ids.argument(), from.argument(), Size(width), Size(len)];
    // SAFETY: edkm_scatter_rows(to, ids, from, width, len) reaches len / width ids, `len` numbers of from, and the rows `ids` of `to`.
    unsafe { runtime.launch("edkm_scatter_rows", blocks_for(len), &arguments) }
}

/// `grad_table[ids[n]] += grad_out[n]`. `grad_out [N, H]`, `grad_table [V, H]`.
///
/// A row that occurs several times gets its terms in the order of the tokens: the host sorts the tokens by row.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// If an id is not below V.
pub fn scatter_add<R: Runtime>(
    runtime: &R,
    ids: &[u32],
    grad_out: Slice<'_, f32>,
    mut grad_table: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let Some(width) = row_width(grad_table.len(), ids, grad_out.len()) else {
        return Ok(());
    };
    // places are below it
    let tokens = check::in_u32("tokens of an embedding", ids.len())?;
    let mut order: Vec<u32> = (0..tokens).collect();
    // stable: the tokens of one row stay in order
    order.sort_by_key(|&token| ids[token as usize]);
    let (mut rows, mut starts) = (Vec::new(), Vec::new());
    for (place, &token) in order.iter().enumerate() {
        let row = ids[token as usize];
        if rows.last() != Some(&row) {
            rows.push(row);
            starts.push(place as u32);
        }
    }
    starts.push(tokens);
    let len = rows.len() * width;
    let rows = Array::from_host(runtime, &rows)?;
    let starts = Array::from_host(runtime, &starts)?;
    let order = Array::from_host(runtime, &order)?;
    let arguments = [
        grad_table.argument(),
        rows.as_slice().argument(),
        starts.as_slice().argument(),
        order.as_slice().argument(),
        grad_out.argument(),
        Size(width),
        Size(len),
    ];
    // SAFETY: edkm_scatter_segments(grad_table, segment_ids, starts, order, grad_out, width, len) reaches len / width segments and one start more, all
    // of order (the starts end at its length), the rows `order` of grad_out, which are all its rows, and the rows of the table that were checked.
    unsafe { runtime.launch("edkm_scatter_segments", blocks_for(len), &arguments) }
}

/// The numbers in a row; none if there is nothing to do.
#[track_caller]
fn row_width(table: usize, ids: &[u32], rows: usize) -> Option<usize> {
    if ids.is_empty() {
        check::len("rows [N, H]", rows, 0);
        return None;
    }
    assert!(
        rows.is_multiple_of(ids.len()),
        "`rows [N, H]` holds {rows} numbers for {} ids",
        ids.len()
    );
    let width = rows / ids.len();
    if width == 0 {
        return None;
    }
    let vocabulary = check::rows("table [V, H]", table, width);
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
        panic!("id {id} is beyond a table of {vocabulary} rows");
    }
    Some(width)
}
