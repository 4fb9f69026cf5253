//! Memory maps of files: the one place where a file's bytes are taken for memory.
#![allow(unsafe_code)]

use std::{fs::File, io};

use memmap2::Mmap;

/// How tensors are made available that are used as they lie in the file (see `Checkpoint::raw`).
///
/// Weights that are converted to f32 are always read, never mapped, whichever of the two is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Mapped: nothing is copied, and pages come from the file when they are touched.
    ///
    /// A mapped file must stay as it is. If another program cuts it short, touching what is gone ends this process
    /// (`SIGBUS` on Unix); if it writes into the file, weights change. Against this the file is locked for reading
    /// as long as the map lives, which programs that lock files respect, and its length is compared before each
    /// tensor is handed out. Files that are replaced by renaming, as this crate writes them, are no danger: the old content
    /// lives as long as its map. Where others may cut files short, use [`Access::Read`].
    #[default]
    Map,
    /// Read into memory of our own: safe against anything that happens to the file, at the price of the copy.
    Read,
}

/// Maps a file for reading, and locks it against programs that ask before they write.
pub(super) fn map(file: &File) -> io::Result<Mmap> {
    // A lock that is not to be had (another program writes now, or the file system has none) is no reason to fail: it is
    // a courtesy. The length check remains.
    let _ = file.try_lock_shared();
    // SAFETY: the map is only read, as bytes, for which every value is valid. What remains is that the file may change or
    // shrink under the map; no program can exclude that. It is stated in `Access::Map`, made unlikely by the lock
    // and by the check of the length before each use, and avoided altogether by `Access::Read`.
    unsafe { Mmap::map(file) }
}
