//! The file that spilled blobs go to.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::extents::Extents;
use crate::lock::lock;
use crate::StoreError;

/// A temporary file without a name: it is gone with the process, however that ends. It keeps its largest size until then,
/// so that a training step finds the room that the step before it had.
pub(super) struct SpillFile {
    dir: PathBuf,
    file: File,
    extents: Mutex<Extents>,
    /// How large the file may become, for a disk that is full in a test.
    #[cfg(test)]
    pub(super) room: std::sync::atomic::AtomicU64,
}

/// A range of the file, given back when dropped.
pub(super) struct Extent {
    file: Arc<SpillFile>,
    start: u64,
    len: u64,
}

impl SpillFile {
    pub(super) fn create(dir: PathBuf) -> Result<Arc<Self>, StoreError> {
        match tempfile::tempfile_in(&dir) {
            Ok(file) => Ok(Arc::new(Self {
                dir,
                file,
                extents: Mutex::default(),
                #[cfg(test)]
                room: u64::MAX.into(),
            })),
            Err(source) => Err(StoreError::SpillDir {
                dir,
                source: Arc::new(source),
            }),
        }
    }

    fn error(&self, doing: &'static str, wanted: usize, source: io::Error) -> StoreError {
        StoreError::Disk {
            dir: self.dir.clone(),
            doing,
            wanted: wanted as u64,
            source: Arc::new(source),
        }
    }

    /// Writes `bytes` into the first gap that is large enough, which is the end of the file while records are loaded in
    /// the reverse of the order in which they were saved.
    pub(super) fn write(self: &Arc<Self>, bytes: &[u8]) -> Result<Extent, StoreError> {
        let len = bytes.len() as u64;
        let extent = Extent {
            file: self.clone(),
            start: lock(&self.extents).take(len),
            len,
        };
        self.write_at(bytes, extent.start)
            .map_err(|source| self.error("write", bytes.len(), source))?;
        Ok(extent)
    }

    fn write_at(&self, bytes: &[u8], start: u64) -> io::Result<()> {
        #[cfg(test)]
        if start + bytes.len() as u64 > self.room.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        positioned::write_all_at(&self.file, bytes, start)
    }
}

impl Extent {
    /// Fills `out`, which has the extent's length.
    pub(super) fn read(&self, out: &mut [u8]) -> Result<(), StoreError> {
        let Self { file, start, .. } = self;
        let wanted = out.len();
        positioned::read_exact_at(&file.file, out, *start).map_err(|source| file.error("read", wanted, source))
    }

    #[cfg(test)]
    pub(super) fn flip_bit(&self) {
        let mut byte = [0];
        positioned::read_exact_at(&self.file.file, &mut byte, self.start).expect("read");
        byte[0] ^= 1;
        positioned::write_all_at(&self.file.file, &byte, self.start).expect("written");
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        lock(&self.file.extents).give(self.start, self.len);
    }
}

#[cfg(unix)]
mod positioned {
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;

    pub(super) fn write_all_at(file: &File, bytes: &[u8], start: u64) -> io::Result<()> {
        file.write_all_at(bytes, start)
    }

    pub(super) fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
        file.read_exact_at(bytes, start)
    }
}

#[cfg(windows)]
mod positioned {
    use std::fs::File;
    use std::io;
    use std::os::windows::fs::FileExt;

    pub(super) fn write_all_at(file: &File, mut bytes: &[u8], mut start: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = file.seek_write(bytes, start)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            (bytes, start) = (&bytes[written..], start + written as u64);
        }
        Ok(())
    }

    pub(super) fn read_exact_at(file: &File, mut bytes: &mut [u8], mut start: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let read = file.seek_read(bytes, start)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            (bytes, start) = (&mut bytes[read..], start + read as u64);
        }
        Ok(())
    }
}
