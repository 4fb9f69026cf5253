//! What the C library's heap does with blocks that are given back: glibc's, which can be told; nothing elsewhere.
#![allow(unsafe_code)]

/// By so many bytes the heap grows at a time. The kernel puts a large page where all of it is the heap's; what is not touched takes no memory.
#[cfg(target_os = "linux")]
const PART: usize = 64 << 20;

/// Whether a block of zeros of less than what [`keep_blocks_below`] was told has been cleared by the C library: then whoever asks can as well do it, after large
/// pages were asked for.
pub(crate) const CLEARS: bool = cfg!(all(target_os = "linux", target_env = "gnu"));

/// Lets the heap have the blocks of less than so many bytes, and keep what is given back of them (mallopt(3)). Else it returns its end to the kernel as often as
/// more than it expects is free there, to grow and be cleared again in the next step. What the environment says (`MALLOC_MMAP_THRESHOLD_` and the like) stays.
pub(crate) fn keep_blocks_below(bytes: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let int = |bytes: usize| libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        for (variable, parameter, value) in [
            (c"MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, int(bytes)),
            (c"MALLOC_TRIM_THRESHOLD_", libc::M_TRIM_THRESHOLD, -1),
            (c"MALLOC_TOP_PAD_", libc::M_TOP_PAD, int(PART)),
        ] {
            // SAFETY: the variable is looked for, not read, once in a process, at its first large block: a program that changes its environment by then does so on
            // this thread, as `LargePages` asks for; the parameters change when the heap grows and shrinks, nothing that lies there
            unsafe {
                if libc::getenv(variable.as_ptr()).is_null() {
                    libc::mallopt(parameter, value);
                }
            }
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = bytes;
}

/// Gives what is free back to the kernel.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: nothing that is in use is touched
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Where the part of the heap ends that has a block of less than what [`keep_blocks_below`] was told: the main thread's is one run, the others' are runs of
/// 64 MiB at multiples of as much. 0 where that is not known. (For a block that lies elsewhere, as where the environment has the C library map it, it's an address
/// beyond the block that says nothing.)
#[cfg(target_os = "linux")]
pub(crate) fn end_of_part(address: usize) -> usize {
    if cfg!(not(target_env = "gnu")) {
        return 0;
    }
    // SAFETY: asks, and moves nothing
    let end = unsafe { libc::sbrk(0) }.addr();
    match address < end {
        true => end.min(address + PART),
        false => (address + 1).next_multiple_of(PART),
    }
}
