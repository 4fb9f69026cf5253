//! The check that every kernel makes on entry.

/// Panics unless `slice` holds `expected` numbers.
#[track_caller]
pub(crate) fn len<T>(name: &str, slice: &[T], expected: usize) {
    assert_eq!(
        slice.len(),
        expected,
        "`{name}` holds {} numbers where the shapes call for {expected}",
        slice.len()
    );
}
