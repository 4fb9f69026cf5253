//! Large pages under large blocks of memory, which are kept for the next that asks.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use crate::heap;
use crate::kept_blocks::{Block, KeptBlocks};

/// The smallest block that large pages are asked for: beside neighbours of its kind it shares them.
const LARGE_BLOCK: usize = 1 << 20;

/// The smallest block that is kept here. Smaller ones the C library's heap keeps, and divides and joins them as they are asked for; larger ones would leave holes
/// there that only smaller ones fill (with 32 MiB in place of 4 the peak of a LLaMA-7B layer grows by 140 MiB).
const KEPT_BLOCK: usize = 4 << 20;

/// A large page of x86-64, and of 64-bit Arm with pages of 4 KiB. Where they are larger the kernel rounds.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// The system's allocator, with large pages under blocks of a MiB and more; what is given back is kept for the next step.
///
/// A training step asks for its weights' size several times over (palettized weights, gradients, saved tensors) and gives it back. The C library returns large
/// blocks to the kernel, and each page of 4 KiB is faulted in and cleared anew: a fifth of the time of a LLaMA-7B layer. Here
/// - pages are of 2 MiB: 512 times fewer faults, and a matrix product seldom waits for an address to be translated. On Linux the kernel is asked by `madvise`, and
///   does so unless `/sys/kernel/mm/transparent_hugepage/enabled` says `never` (most distributions say `madvise` or `always`). Memory may grow by less than such a
///   page at each end of a block.
/// - blocks of 4 MiB and more that were given back are handed out again to those who ask for as much (within a 32nd). They are let go, the oldest first,
///   before those in use and kept come to more than were in use at once before.
/// - smaller ones stay in glibc's heap, which is told not to shrink (mallopt(3)), with the first block of a MiB.
///
/// [`LargePages::give_back`] lets all of that go. On other systems the second alone is done.
///
/// A program that changes its environment (`std::env::set_var`) does so before other threads run: glibc's variables are looked for at the first large block.
///
/// The allocator is the program's to choose. In one that trains:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: edkm_kernels::LargePages = edkm_kernels::LargePages;
/// # let mut weights = vec![0.5_f32; 1 << 20];
/// # weights.extend(std::iter::repeat_n(0.25, 1 << 20));
/// # assert_eq!(weights.iter().sum::<f32>(), 0.75 * (1 << 20) as f32);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct LargePages;

impl LargePages {
    /// Gives what is kept back to the system: for a program that has done what took the memory, or that measures it. Does nothing where this is not the
    /// program's allocator.
    pub fn give_back() {
        kept().free_all(free);
        heap::give_back();
    }
}

/// What is kept. Nothing is allocated while it is locked.
static KEPT: Mutex<KeptBlocks> = Mutex::new(KeptBlocks::new());

fn kept() -> MutexGuard<'static, KeptBlocks> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the heap what it keeps, before the first large block.
#[inline]
fn set_up(size: usize) {
    static ONCE: Once = Once::new();
    if size >= LARGE_BLOCK {
        ONCE.call_once(|| heap::keep_blocks_below(KEPT_BLOCK));
    }
}

/// The layout that the system is asked for: blocks that are kept come in 32 sizes from one power of two to the next, so that those of nearly the same size can
/// stand for each other. What is not touched of them takes no memory.
fn rounded(layout: Layout) -> Layout {
    let size = layout.size();
    if size < KEPT_BLOCK {
        return layout;
    }
    let step = 1 << (size.ilog2() - 5);
    let size = size.checked_next_multiple_of(step).unwrap_or(size);
    Layout::from_size_align(size, layout.align()).unwrap_or(layout)
}

/// Gives a block that was kept back to the system.
fn free(block: Block) {
    // SAFETY: it is a block of `System` with this very layout (see `keep`), and nobody uses it
    unsafe {
        let layout = Layout::from_size_align_unchecked(block.size, block.align);
        System.dealloc(std::ptr::with_exposed_provenance_mut(block.address), layout);
    }
}

/// A block of those that are kept, one that was or a new one by `new`, which is given the rounded layout. The second says whether it was kept: then it holds what
/// was written there before.
fn kept_block(layout: Layout, new: impl Fn(Layout) -> *mut u8) -> (*mut u8, bool) {
    let wanted = rounded(layout);
    {
        let mut kept = kept();
        if let Some(address) = kept.take(wanted.size(), wanted.align()) {
            return (std::ptr::with_exposed_provenance_mut(address), true);
        }
        kept.more(wanted.size(), free);
    }
    let mut block = new(wanted);
    if block.is_null() {
        kept().free_all(free);
        block = new(wanted);
    }
    match block.is_null() {
        true => kept().less(wanted.size()),
        false => {
            kept().came();
            ask_for_large_pages(block, layout.size());
        }
    }
    (block, false)
}

// SAFETY: every block is one of `System`, asked for, changed and given back with the layout that `rounded` makes of the caller's, which is no smaller; while a
// block is kept nobody else has it.
unsafe impl GlobalAlloc for LargePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        set_up(layout.size());
        if layout.size() < KEPT_BLOCK {
            // SAFETY: the caller's promise is the one that `System` asks for
            let block = unsafe { System.alloc(layout) };
            ask_for_large_pages(block, layout.size());
            return block;
        }
        // SAFETY: as above; a rounded layout is not empty
        kept_block(layout, |rounded| unsafe { System.alloc(rounded) }).0
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        set_up(layout.size());
        if layout.size() < KEPT_BLOCK {
            let is_large = layout.size() >= LARGE_BLOCK;
            // SAFETY: as for `alloc`, and the block is as long as that. Blocks fresh from the kernel are zero and have not been touched yet
            return unsafe {
                if is_large && heap::CLEARS {
                    let block = self.alloc(layout);
                    if !block.is_null() {
                        block.write_bytes(0, layout.size());
                    }
                    block
                } else {
                    let block = System.alloc_zeroed(layout);
                    ask_for_large_pages(block, layout.size());
                    block
                }
            };
        }
        // SAFETY: as for `alloc`
        let (block, was_kept) = kept_block(layout, |rounded| unsafe { System.alloc_zeroed(rounded) });
        if was_kept {
            // SAFETY: the block is no smaller, and nobody else has it
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() < KEPT_BLOCK {
            // SAFETY: as for `alloc`
            return unsafe { System.dealloc(block, layout) };
        }
        let layout = rounded(layout);
        let block = Block {
            address: block.expose_provenance(),
            size: layout.size(),
            align: layout.align(),
        };
        kept().keep(block, free);
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        set_up(size);
        if layout.size().max(size) < KEPT_BLOCK {
            // SAFETY: as for `alloc`
            let block = unsafe { System.realloc(block, layout, size) };
            ask_for_large_pages(block, size);
            return block;
        }
        // SAFETY: the caller's promise
        let wanted = rounded(unsafe { Layout::from_size_align_unchecked(size, layout.align()) });
        let had = rounded(layout);
        if wanted == had && had.size() >= KEPT_BLOCK {
            return block;
        }
        let counted = |layout: Layout| if layout.size() < KEPT_BLOCK { 0 } else { layout.size() };
        // blocks of that size are moved by their pages: there are never both
        let exchange = |from: Layout, to: Layout| {
            let mut kept = kept();
            kept.less(counted(from));
            kept.more(counted(to), free);
        };
        exchange(had, wanted);
        // SAFETY: the block is of the layout `had`; `wanted` is no smaller than what the caller asks for
        let moved = unsafe { System.realloc(block, had, wanted.size()) };
        match moved.is_null() {
            true => exchange(wanted, had),
            false => kept().came(),
        }
        ask_for_large_pages(moved, size);
        moved
    }
}

/// Asks for large pages where the block lies. A block that ends within a page asks for all of it: its neighbours in the allocator's memory are blocks too. One in
/// the heap asks for what is behind it too: the allocator notes there that it is free, and a page that is touched stays small.
#[inline]
// nothing is behind it where there is nobody to ask
#[cfg_attr(not(target_os = "linux"), allow(clippy::needless_return))]
fn ask_for_large_pages(block: *mut u8, size: usize) {
    if size < LARGE_BLOCK || block.is_null() {
        return;
    }
    #[cfg(target_os = "linux")]
    {
        let address = block.addr();
        let within = address % LARGE_PAGE;
        let size = match size < KEPT_BLOCK {
            true => size.max(heap::end_of_part(address).saturating_sub(address)),
            false => size,
        };
        let length = (within + size).next_multiple_of(LARGE_PAGE);
        // SAFETY: the advice changes which pages lie under addresses, never what is read there. Where nothing is mapped, or no advice is taken, the call
        // fails, and the pages are those that would have been there.
        unsafe { libc::madvise(block.wrapping_sub(within).cast(), length, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// What is kept is the process's: a test that asks what comes back is alone with it.
    static ALONE: Mutex<()> = Mutex::new(());

    fn alone() -> MutexGuard<'static, ()> {
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 64).unwrap()
    }

    /// Whether the kernel was asked for large pages at an address, by what it says of the mapping; `None` if it doesn't say.
    fn is_asked_for(address: usize) -> Option<bool> {
        let mappings = std::fs::read_to_string("/proc/self/smaps").ok()?;
        let mut here = false;
        for line in mappings.lines() {
            if let Some(flags) = line.strip_prefix("VmFlags:") {
                if here {
                    return Some(flags.split_whitespace().any(|flag| flag == "hg"));
                }
            } else if let Some((start, end)) = line.split(' ').next().and_then(|range| range.split_once('-')) {
                let number = |digits| usize::from_str_radix(digits, 16);
                if let (Ok(start), Ok(end)) = (number(start), number(end)) {
                    here = (start..end).contains(&address);
                }
            }
        }
        None
    }

    /// Whether there are large pages, and the kernel says where it was asked for them (an emulator of another processor does not).
    #[cfg(target_os = "linux")]
    fn kernel_says() -> bool {
        let page = layout(2 * LARGE_PAGE);
        // SAFETY: the block is given back with its layout; advice changes nothing of what is read there
        unsafe {
            let block = System.alloc(page);
            let from = block.wrapping_add(LARGE_PAGE - block.addr() % LARGE_PAGE);
            libc::madvise(from.cast(), LARGE_PAGE / 2, libc::MADV_HUGEPAGE);
            let says = is_asked_for(from.addr()) == Some(true);
            System.dealloc(block, page);
            says
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn kernel_says() -> bool {
        false
    }

    /// All of a block's pages, where the kernel says so.
    fn assert_asked_for(block: *mut u8, size: usize) {
        if !kernel_says() {
            return;
        }
        for offset in (0..size).step_by(MIB / 2).chain([size - 1]) {
            assert_ne!(is_asked_for(block.addr() + offset), Some(false), "{offset} of {size}");
        }
    }

    #[test]
    fn large_blocks_lie_on_large_pages_and_hold_what_was_written() {
        let _alone = alone();
        let allocator = LargePages;
        // SAFETY: each block is used within its size, and given back with its last layout
        unsafe {
            let block = allocator.alloc_zeroed(layout(5 * MIB));
            assert_asked_for(block, 5 * MIB);
            assert!(std::slice::from_raw_parts(block, 5 * MIB).iter().all(|&byte| byte == 0));
            std::slice::from_raw_parts_mut(block, 5 * MIB).fill(7);
            let block = allocator.realloc(block, layout(5 * MIB), 40 * MIB);
            assert_asked_for(block, 40 * MIB);
            assert!(std::slice::from_raw_parts(block, 5 * MIB).iter().all(|&byte| byte == 7));
            let block = allocator.realloc(block, layout(40 * MIB), 70 * MIB);
            assert_asked_for(block, 70 * MIB);
            assert!(std::slice::from_raw_parts(block, 5 * MIB).iter().all(|&byte| byte == 7));
            let block = allocator.realloc(block, layout(70 * MIB), 100);
            assert_eq!(std::slice::from_raw_parts(block, 100), [7; 100]);
            allocator.dealloc(block, layout(100));
            let block = allocator.alloc(layout(MIB));
            assert_asked_for(block, MIB);
            allocator.dealloc(block, layout(MIB));
        }
    }

    #[test]
    fn a_block_that_was_given_back_comes_again_and_is_zero_where_that_is_asked_for() {
        let _alone = alone();
        // of a size that no other test asks for
        let size = 3 * KEPT_BLOCK + 4096;
        // SAFETY: each block is used within its size, and given back with its layout
        unsafe {
            let first = LargePages.alloc(layout(size));
            std::slice::from_raw_parts_mut(first, size).fill(7);
            LargePages.dealloc(first, layout(size));
            let rounded = rounded(layout(size));
            let is_kept = |block: &Block| block.address == first.addr() && block.size == rounded.size();
            assert!(kept().any(is_kept));
            let second = LargePages.alloc_zeroed(layout(size + 100));
            assert_eq!(second, first);
            assert!(std::slice::from_raw_parts(second, size + 100)
                .iter()
                .all(|&byte| byte == 0));
            // nothing moves within what a block has
            assert_eq!(LargePages.realloc(second, layout(size + 100), size), second);
            LargePages.dealloc(second, layout(size));
            LargePages::give_back();
            assert!(!kept().any(is_kept));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_block_in_the_heap_asks_for_what_lies_behind_it_and_is_zero_where_that_is_asked_for() {
        let _alone = alone();
        let size = KEPT_BLOCK / 2;
        // SAFETY: each block is used within its size, and given back with its layout
        unsafe {
            let first = LargePages.alloc(layout(size));
            std::slice::from_raw_parts_mut(first, size).fill(7);
            if heap::CLEARS && kernel_says() {
                let last = heap::end_of_part(first.addr()) - 1;
                assert!(last > first.addr());
                assert_ne!(is_asked_for(last), Some(false));
            }
            LargePages.dealloc(first, layout(size));
            let second = LargePages.alloc_zeroed(layout(size));
            assert!(std::slice::from_raw_parts(second, size).iter().all(|&byte| byte == 0));
            assert_asked_for(second, size);
            LargePages.dealloc(second, layout(size));
        }
    }

    #[test]
    fn what_cannot_be_had_is_null() {
        let layout = Layout::from_size_align(isize::MAX as usize & !4095, 4096).unwrap();
        // SAFETY: the layout is not empty, and nothing is written
        assert!(unsafe { LargePages.alloc(layout) }.is_null());
    }
}
