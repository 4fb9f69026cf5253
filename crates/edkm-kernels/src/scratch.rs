//! Buffers that a thread keeps from one piece of work to the next.

use std::cell::RefCell;

/// Numbers in a cache line.
const LINE: usize = 16;

thread_local! {
    static BUFFER: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with buffers of the given lengths, each beginning at a cache line, that hold any numbers.
///
/// `work` must not call into the thread pool: a piece of work that this thread took over meanwhile would find the buffers in
/// use. The memory stays with the thread.
pub(crate) fn with<const N: usize, R>(lengths: [usize; N], work: impl FnOnce([&mut [f32]; N]) -> R) -> R {
    let padded = lengths.map(|len| len.next_multiple_of(LINE));
    let total = padded.iter().sum::<usize>() + LINE;
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < total {
            // Not `resize`, which would copy.
            *buffer = vec![0.0; total];
        }
        let offset = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let mut rest = &mut buffer[offset..];
        work(std::array::from_fn(|i| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(padded[i]);
            rest = after;
            &mut part[..lengths[i]]
        }))
    })
}
