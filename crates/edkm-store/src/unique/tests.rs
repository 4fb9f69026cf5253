use super::*;

fn table_of(unique: &Unique, rows: &[u8], row_bytes: usize) -> Vec<u8> {
    let mut table = vec![0; unique.first_rows.len() * row_bytes];
    unique.copy_table(rows, row_bytes, &mut table);
    table
}

fn expanded(unique: &Unique, rows: &[u8], row_bytes: usize) -> Vec<u8> {
    let mut back = vec![0xee; rows.len()];
    expand(
        &table_of(unique, rows, row_bytes),
        row_bytes,
        &unique.index,
        unique.bits,
        &mut back,
    )
    .expect("expands");
    back
}

/// `count` rows that take `distinct` values, all of which appear.
fn repeating(count: usize, row_bytes: usize, distinct: usize) -> (Vec<u8>, Vec<u16>) {
    let keys: Vec<u16> = (0..count).map(|i| (i * 7919 % distinct) as u16).collect();
    let row = |key: u16| (0..row_bytes).map(move |b| (usize::from(key) >> (8 * (b % 2))) as u8 ^ b as u8);
    (keys.iter().flat_map(|&key| row(key)).collect(), keys)
}

#[test]
fn the_table_holds_each_row_once_in_the_narrowest_index() {
    for row_bytes in [4, 8, 12, 16, 32, 64, 100] {
        for distinct in [1, 2, 3, 200, 256, 257, 3000] {
            let (rows, keys) = repeating(20_000, row_bytes, distinct);
            let by_key = Unique::of_rows(&rows, row_bytes, Some(&keys)).expect("rows repeat");
            let by_content = Unique::of_rows(&rows, row_bytes, None).expect("rows repeat");
            assert_eq!(by_key, by_content);
            assert_eq!(by_key.first_rows.len(), distinct);
            assert_eq!(1 << by_key.bits, distinct.next_power_of_two());
            assert_eq!(by_key.index.len(), 20_000 * by_key.bits as usize / 8);
            assert_eq!(expanded(&by_key, &rows, row_bytes), rows);
        }
    }
}

#[test]
fn the_index_depends_on_the_keys_alone() {
    let (rows, keys) = repeating(5000, 8, 100);
    let other: Vec<u8> = rows.iter().map(|byte| byte ^ 0x55).collect();
    let [one, two] = [&rows, &other].map(|rows| Unique::of_rows(rows, 8, Some(&keys)).expect("rows repeat"));
    assert_eq!((one.index, one.bits), (two.index, two.bits));
}

#[test]
fn keys_that_lie_are_not_believed() {
    let (mut rows, keys) = repeating(5000, 8, 100);
    let last = rows.len() - 1;
    rows[last] ^= 1;
    let unique = Unique::of_rows(&rows, 8, Some(&keys)).expect("rows repeat");
    assert_eq!(unique.first_rows.len(), 101);
    assert_eq!(expanded(&unique, &rows, 8), rows);
    assert_eq!(
        Unique::of_rows(&rows, 8, Some(&keys[1..])),
        Some(unique),
        "one key too few"
    );
}

#[test]
fn rows_that_hardly_repeat_are_left_alone() {
    let distinct: Vec<u8> = (0..300_000u64)
        .flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    assert_eq!(Unique::of_rows(&distinct, 8, None), None);
    // An index of 16 bits for rows of 16 bits saves nothing.
    let (rows, keys) = repeating(70_000, 2, 65_536);
    assert_eq!(Unique::of_rows(&rows, 2, Some(&keys)), None);
    assert_eq!(Unique::of_rows(&[], 4, None), None);
    assert_eq!(Unique::of_rows(&[1, 2, 3], 0, None), None);
    assert_eq!(Unique::of_rows(&[1, 2, 3], 2, None), None);
}

#[test]
fn an_index_that_points_nowhere_is_an_error() {
    let table = [0; 3 * 4];
    for row_bytes in [4, 12] {
        let mut rows = vec![0; 4 * row_bytes];
        let index = bits::pack([0, 2, 3, 1].into_iter(), 2);
        let names = |row| Err(ExpandError { row });
        // Three rows of 4 bytes are one row of 12.
        assert_eq!(
            expand(&table, row_bytes, &index, 2, &mut rows),
            names(if row_bytes == 4 { 2 } else { 1 })
        );
        assert_eq!(expand(&table, row_bytes, &[], 2, &mut rows), names(0));
        assert_eq!(expand(&table, row_bytes, &index, 40, &mut rows), names(0));
    }
}
