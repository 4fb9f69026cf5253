//! Large pages under large blocks of memory.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

/// The smallest block that large pages are asked for: beside neighbours of its kind it shares them.
const LARGE_BLOCK: usize = 1 << 20;

/// A large page of x86-64, and of 64-bit Arm with pages of 4 KiB. Where they are larger the kernel rounds.
const LARGE_PAGE: usize = 2 << 20;

/// The system's allocator, with large pages under blocks of a MiB and more.
///
/// A training step asks for its weights' size several times over (palettized weights, gradients, saved tensors) and gives it back; large blocks go back to the
/// kernel, and each page of 4 KiB is faulted in and cleared anew. With pages of 2 MiB there are 512 times fewer faults, and a matrix product seldom waits for
/// an address to be translated. On Linux the kernel is asked by `madvise`, and does so unless `/sys/kernel/mm/transparent_hugepage/enabled` says `never`
/// (most distributions say `madvise` or `always`); elsewhere this is [`System`]. Memory may grow by less than a large page at each end of a block.
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

// SAFETY: every block is one of `System`, asked for, changed and given back with the layout that the caller passed.
unsafe impl GlobalAlloc for LargePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the one that `System` asks for
        let block = unsafe { System.alloc(layout) };
        ask_for_large_pages(block, layout.size());
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`. Blocks fresh from the kernel are zero and have not been touched yet
        let block = unsafe { System.alloc_zeroed(layout) };
        ask_for_large_pages(block, layout.size());
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as for `alloc`
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as for `alloc`
        let block = unsafe { System.realloc(block, layout, size) };
        ask_for_large_pages(block, size);
        block
    }
}

/// Asks for large pages where the block lies. A block that ends within a page asks for all of it: its neighbours in the allocator's memory are blocks too.
#[inline]
fn ask_for_large_pages(block: *mut u8, size: usize) {
    if size < LARGE_BLOCK || block.is_null() {
        return;
    }
    #[cfg(target_os = "linux")]
    {
        let address = block.addr();
        let within = address % LARGE_PAGE;
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

    /// All of a block's pages, on a kernel that has large ones.
    fn assert_asked_for(block: *mut u8, size: usize) {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            return;
        }
        for offset in (0..size).step_by(MIB / 2).chain([size - 1]) {
            assert_ne!(is_asked_for(block.addr() + offset), Some(false), "{offset} of {size}");
        }
    }

    #[test]
    fn large_blocks_lie_on_large_pages_and_hold_what_was_written() {
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
            let block = allocator.realloc(block, layout(40 * MIB), 100);
            assert_eq!(std::slice::from_raw_parts(block, 100), [7; 100]);
            allocator.dealloc(block, layout(100));
            let block = allocator.alloc(layout(MIB));
            assert_asked_for(block, MIB);
            allocator.dealloc(block, layout(MIB));
        }
    }

    #[test]
    fn what_cannot_be_had_is_null() {
        let layout = Layout::from_size_align(isize::MAX as usize & !4095, 4096).unwrap();
        // SAFETY: the layout is not empty, and nothing is written
        assert!(unsafe { LargePages.alloc(layout) }.is_null());
    }
}
