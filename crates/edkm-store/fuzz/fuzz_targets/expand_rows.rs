//! Whatever the index and the table, putting rows together is an error or every row is one of the table's.
//!
//! Input: bytes of a row, bits of an index entry, rows (u16 LE), rows of the table, table, index.
#![no_main]

use edkm_store::expand;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&[row_bytes, bits, low, high, distinct], rest)) = input.split_first_chunk() else { return };
    let row_bytes = usize::from(row_bytes);
    let (table, index) = rest.split_at((row_bytes * usize::from(distinct)).min(rest.len()));
    let mut rows = vec![0; row_bytes * usize::from(u16::from_le_bytes([low, high]))];
    if expand(table, row_bytes, index, u32::from(bits), &mut rows).is_ok() && row_bytes > 0 {
        for row in rows.chunks_exact(row_bytes).take(64) {
            assert!(table.chunks_exact(row_bytes).any(|of_table| of_table == row));
        }
    }
});
