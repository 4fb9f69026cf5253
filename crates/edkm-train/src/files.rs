//! Opening and reading files that may come from anyone: regular files only, sizes known before anything is allocated.

use std::fs::{File, TryLockError};
use std::io::{BufRead, Read};
use std::path::Path;

use edkm_llama::files::replace_file;
use edkm_llama::LlamaError;

use crate::TrainError;

/// Opens a file to read it. A folder or a device (which may never end) is refused; a pipe is not.
pub(crate) fn open(path: &Path) -> Result<File, TrainError> {
    // Asked before opening: some devices act on being opened.
    let kind = std::fs::metadata(path)
        .map_err(TrainError::io("read", path))?
        .file_type();
    if kind.is_file() || is_pipe(kind) {
        File::open(path).map_err(TrainError::io("read", path))
    } else {
        Err(TrainError::NotAFile {
            path: path.to_path_buf(),
        })
    }
}

/// Behind the mark that some programs put in front of UTF-8.
pub(crate) fn without_mark<R: BufRead>(path: &Path, mut reader: R) -> Result<R, TrainError> {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    let begins = reader.fill_buf().map_err(TrainError::io("read", path))?;
    if begins.starts_with(MARK) {
        reader.consume(MARK.len());
    }
    Ok(reader)
}

/// The whole of a small file, refused beyond `limit` bytes before they are read.
pub(crate) fn read_capped(path: &Path, limit: u64) -> Result<Vec<u8>, TrainError> {
    let file = open(path)?;
    let too_large = || TrainError::TooLarge {
        path: path.to_path_buf(),
        what: "the file".to_owned(),
        limit,
    };
    let length = file.metadata().map_err(TrainError::io("read", path))?.len();
    if length > limit {
        return Err(too_large());
    }
    // a vector that grows as it is read would take twice the file
    let mut bytes = Vec::with_capacity(length as usize + 1);
    // The file may grow under us: the limit holds for what is read too.
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(TrainError::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    Ok(bytes)
}

/// A path in JSON, which is text: what of it is not Unicode is replaced.
pub(crate) fn in_words<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Writes a file so that there is either what was there before or all of the new content.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    Ok(replace_file(path, |out| {
        out.write_all(bytes).map_err(|source| LlamaError::Io {
            action: "write",
            path: path.to_path_buf(),
            source,
        })
    })?)
}

/// Takes the file whose lock says that a process works on the folder it lies in, until it is dropped. Who had it before may have removed it when it was done.
///
/// # Errors
/// [`TrainError::Running`] if another process has it; a system that does not write.
pub(crate) fn lock(path: &Path) -> Result<File, TrainError> {
    loop {
        // not emptied: Windows refuses that while another process has it locked
        let file = File::options().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(TrainError::io("create", path))?;
        match file.try_lock() {
            // the lock of a file that is not there any more keeps nobody away
            Ok(()) if !is_at(&file, path) => {}
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                return Err(TrainError::Running {
                    folder: path.parent().unwrap_or(path).to_path_buf(),
                })
            }
            Err(TryLockError::Error(why)) if is_without_locks(&why) => {
                tracing::warn!(
                    "{}: the file system has no locks ({why}); see to it that no other process works there",
                    path.parent().unwrap_or(path).display()
                );
                return Ok(file);
            }
            Err(TryLockError::Error(why)) => return Err(TrainError::io("lock", path)(why)),
        }
    }
}

/// Whether the open file is the one of that name.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |about: std::fs::Metadata| (about.dev(), about.ino());
    // where the system does not tell there is nothing to compare
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => id(open) == id(named),
        (_, Err(why)) => why.kind() != std::io::ErrorKind::NotFound,
        (Err(_), _) => true,
    }
}

/// Windows keeps the name of a file until it is closed.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Whether a lock was refused since the file system has none, or since nobody is there who keeps them (NFS without its daemon).
fn is_without_locks(why: &std::io::Error) -> bool {
    #[cfg(unix)]
    if why.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error()) {
        return true;
    }
    why.kind() == std::io::ErrorKind::Unsupported
}

/// Whether a path is that of a pipe.
pub(crate) fn is_a_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| is_pipe(about.file_type()))
}

#[cfg(unix)]
fn is_pipe(kind: std::fs::FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&kind)
}

#[cfg(not(unix))]
fn is_pipe(_: std::fs::FileType) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_a_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open(dir.path()), Err(TrainError::NotAFile { .. })));
        let absent = dir.path().join("absent.txt");
        assert!(open(&absent).unwrap_err().to_string().contains("absent.txt"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn refuses_a_device_that_never_ends() {
        assert!(matches!(open(Path::new("/dev/zero")), Err(TrainError::NotAFile { .. })));
    }

    #[test]
    fn a_file_system_without_locks_is_told_from_one_that_fails() {
        use std::io::{Error, ErrorKind};
        assert!(is_without_locks(&ErrorKind::Unsupported.into()));
        #[cfg(unix)]
        assert!(is_without_locks(&Error::from(rustix::io::Errno::NOLCK)));
        assert!(!is_without_locks(&Error::from(ErrorKind::PermissionDenied)));
    }

    #[test]
    #[cfg(unix)]
    fn a_file_that_was_replaced_is_not_the_one_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = lock(&path).unwrap();
        assert!(is_at(&file, &path));
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&file, &path));
        // the name is free, whoever has the file that had it
        let other = lock(&path).unwrap();
        assert!(is_at(&other, &path) && !is_at(&file, &path));
        assert!(matches!(lock(&path), Err(TrainError::Running { .. })));
    }

    #[test]
    fn reads_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("five");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_capped(&path, 5).unwrap(), b"12345");
        assert!(matches!(
            read_capped(&path, 4),
            Err(TrainError::TooLarge { limit: 4, .. })
        ));
    }
}
