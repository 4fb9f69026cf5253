//! A buffer the size of the largest weight, kept from call to call: fresh pages of the operating system cost more than the gather that
//! fills them.

use std::cell::Cell;

thread_local! {
    static BUFFER: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Runs `f` on a buffer of `len` numbers of unspecified content. One buffer a thread, `4 * len` bytes of the largest `len` so far; a
/// nested call gets a buffer of its own.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = BUFFER.take();
    if buffer.len() < len {
        buffer = vec![0.0; len];
    }
    let result = f(&mut buffer[..len]);
    BUFFER.set(buffer);
    result
}

#[cfg(test)]
mod tests {
    use super::with_scratch;

    #[test]
    fn nested_buffers_are_distinct_and_the_outer_one_is_kept() {
        let first = with_scratch(8, |a| {
            a.fill(1.0);
            with_scratch(4, |b| b.fill(2.0));
            assert!(a.iter().all(|&x| x == 1.0));
            a.as_ptr() as usize
        });
        assert_eq!(with_scratch(8, |a| a.as_ptr() as usize), first);
    }
}
