//! Checks of lengths on entry.

/// Panics unless the slice named `what` (with its axes) has the expected length.
#[track_caller]
pub(crate) fn len(what: &str, got: usize, expected: usize) {
    assert!(got == expected, "`{what}` holds {got} numbers, not {expected}");
}

/// The number of rows of `width` numbers. Panics unless they are whole.
#[track_caller]
pub(crate) fn rows(what: &str, len: usize, width: usize) -> usize {
    assert!(
        width > 0 && len.is_multiple_of(width),
        "`{what}` holds {len} numbers, not rows of {width}"
    );
    len / width
}
