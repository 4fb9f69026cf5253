//! Writing to disjoint rows of one slice from several threads, where the rows of a piece of work are not contiguous.
#![allow(unsafe_code)]

use std::marker::PhantomData;

/// A mutable slice that threads share, each writing to rows that no other touches.
///
/// The axes of attention make this necessary: the rows of one head lie A x D numbers apart.
pub(crate) struct DisjointRows<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer stands for an exclusive borrow of a slice of `f32`, which may move to and be used from another
// thread; that no two threads use the same part at once is what callers of `row` promise.
unsafe impl Send for DisjointRows<'_> {}
// SAFETY: as above.
unsafe impl Sync for DisjointRows<'_> {}

impl<'a> DisjointRows<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        DisjointRows {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            owner: PhantomData,
        }
    }

    /// The `len` numbers from `offset` on. Panics when they go beyond the slice.
    ///
    /// # Safety
    ///
    /// While the returned row is alive, no other row that overlaps it may be.
    #[expect(
        clippy::mut_from_ref,
        reason = "the exclusive borrow is split among threads; see Safety"
    )]
    pub(crate) unsafe fn row(&self, offset: usize, len: usize) -> &mut [f32] {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "row {offset}+{len} of {}",
            self.len
        );
        // SAFETY: the range lies in the slice that `new` borrowed exclusively for 'a, and the caller promises that no
        // overlapping row is alive.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), len) }
    }

    /// A pointer to the first of `rows` rows of `width` numbers, `stride` apart, which begin at `offset`. Panics when they go
    /// beyond the slice.
    ///
    /// # Safety
    ///
    /// As [`row`](Self::row), for each of the rows while the pointer is used.
    pub(crate) unsafe fn strided(&self, offset: usize, rows: usize, width: usize, stride: usize) -> *mut f32 {
        let rest = rows.saturating_sub(1).saturating_mul(stride).saturating_add(width);
        let end = offset.saturating_add(rest);
        assert!(
            end <= self.len,
            "{rows} rows of {width} numbers from {offset} on, {stride} apart, of {}",
            self.len
        );
        // SAFETY: `offset` lies in the slice, as just asserted.
        unsafe { self.start.add(offset) }
    }
}
