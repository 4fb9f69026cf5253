//! Files that are opened without waiting and replaced without half-states.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::LlamaError;

/// Opens a regular file (following links, as the Hugging Face cache needs) and tells its length.
///
/// Anything else is refused before it is opened: opening a named pipe would wait for a writer for ever.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64), LlamaError> {
    let about = fs::metadata(path).map_err(|source| LlamaError::io("read", path, source))?;
    if !about.is_file() {
        return Err(LlamaError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(|source| LlamaError::io("open", path, source))?;
    let length = file
        .metadata()
        .map_err(|source| LlamaError::io("read", path, source))?
        .len();
    Ok((file, length))
}

/// Whether there is something at `path`. A folder that may not be read, or links in a circle, are errors and no absence.
pub(crate) fn exists(path: &Path) -> Result<bool, LlamaError> {
    path.try_exists().map_err(|source| LlamaError::io("find", path, source))
}

/// The path of what is there, absolute, without links and dots; on Windows without `\\?\` in front of it where it can do without, as people write it and as
/// [`std::path::absolute`] has it.
///
/// # Errors
/// Those of the system.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    dunce::canonicalize(path)
}

/// Writes a file so that `path` holds either what it held before or all of the new content, whatever happens in between.
///
/// `write` fills a temporary file beside `path` (`.NAME.partial-...`); it is synced, renamed, and the folder is synced. On
/// an error the temporary file is removed and `path` is as it was.
///
/// # Errors
/// Those of `write`, and those of the system.
pub fn replace_file<T>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<T, LlamaError>,
) -> Result<T, LlamaError> {
    let failed = |source| LlamaError::io("write", path, source);
    let folder = folder_of(path);
    let mut builder = tempfile::Builder::new();
    let prefix = partial_prefix(path);
    builder.prefix(&prefix);
    shared_permissions(&mut builder, 0o666);
    let mut temporary = builder.tempfile_in(folder).map_err(failed)?;
    let mut writer = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
    let result = write(&mut writer)?;
    writer.flush().map_err(failed)?;
    drop(writer);
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(path).map_err(|e| failed(e.error))?;
    sync_folder(folder)?;
    Ok(result)
}

/// The folder that holds `path`.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// What the names of temporary files and folders beside `path` begin with, so that one can see what was left and by whom.
pub fn partial_prefix(path: &Path) -> String {
    format!(".{}.partial-", path.file_name().unwrap_or_default().to_string_lossy())
}

/// The permissions that files and folders get otherwise: temporary ones would be private to the user, also once renamed.
pub(crate) fn shared_permissions(builder: &mut tempfile::Builder<'_, '_>, mode: u32) {
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = (builder, mode);
}

/// Makes names in a folder as durable as the files behind them, where that can be asked for: folders cannot be synced on Windows, nor on some file systems.
///
/// # Errors
/// Those of the system.
pub fn sync_folder(folder: &Path) -> Result<(), LlamaError> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|opened| opened.sync_all());
        match synced {
            Err(why) if !is_without_sync(&why) => return Err(LlamaError::io("sync", folder, why)),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a folder was not synced since its file system has no such thing (SMB, some FUSE).
fn is_without_sync(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Exchanges two folders on one file system: in one step where the system can (Linux, macOS); elsewhere `b` is moved aside first, and for that instant there is
/// none.
///
/// # Errors
/// Those of the system; both are then as they were, unless a folder that was [moved aside](moved_aside) can be moved no further.
pub fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use rustix::fs::{renameat_with, RenameFlags, CWD};
        if renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok() {
            return Ok(());
        }
        // Not every file system can; what else may be wrong shows in the renames.
    }
    exchange_by_renaming(a, b)
}

/// Moves `b` aside for an instant; puts it back if `a` cannot take its place.
pub(crate) fn exchange_by_renaming(a: &Path, b: &Path) -> io::Result<()> {
    let aside = moved_aside(a);
    fs::rename(b, &aside)?;
    if let Err(error) = fs::rename(a, b) {
        fs::rename(&aside, b)?;
        return Err(error);
    }
    fs::rename(&aside, a)
}

/// What the name of a folder that was moved aside ends with.
const ASIDE: &str = "-old";

/// Where [`exchange`] moves a folder for an instant whose place is taken by `built`.
pub fn moved_aside(built: &Path) -> PathBuf {
    let mut aside = built.as_os_str().to_owned();
    aside.push(ASIDE);
    aside.into()
}

/// Whether a folder of this name was [moved aside](moved_aside).
pub fn is_moved_aside(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(ASIDE.as_bytes())
}

/// Clears away a folder that a process left when it was killed over what was to take the `place`: what was [moved aside](moved_aside) from there takes it
/// again if nothing has; all else is removed.
///
/// # Errors
/// Those of the system.
pub fn clear_left(left: &Path, place: &Path) -> Result<(), LlamaError> {
    if is_moved_aside(left) && !exists(place)? {
        return fs::rename(left, place).map_err(|source| LlamaError::io("rename", place, source));
    }
    fs::remove_dir_all(left).map_err(|source| LlamaError::io("remove", left, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "old").unwrap();
        let result = replace_file(&path, |w| {
            w.write_all(b"half").unwrap();
            Err::<(), _>(LlamaError::NotAFile { path: path.clone() })
        });
        assert!(matches!(result, Err(LlamaError::NotAFile { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        replace_file(&path, |w| {
            w.write_all(b"new").map_err(|e| LlamaError::io("write", &path, e))
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_was_moved_aside_takes_its_place_again_if_nothing_has() {
        let dir = tempfile::tempdir().unwrap();
        let (place, built) = (dir.path().join("x"), dir.path().join(".x.partial-1"));
        let aside = moved_aside(&built);
        for folder in [&built, &aside] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("of"), folder.as_os_str().as_encoded_bytes()).unwrap();
        }
        clear_left(&built, &place).unwrap();
        assert!(!built.exists() && !place.exists());
        clear_left(&aside, &place).unwrap();
        assert_eq!(
            fs::read(place.join("of")).unwrap(),
            aside.as_os_str().as_encoded_bytes()
        );
        fs::create_dir(&aside).unwrap();
        clear_left(&aside, &place).unwrap();
        assert!(!aside.exists() && place.join("of").exists());
    }

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[test]
    fn a_file_system_that_syncs_no_folder_is_told_from_one_that_fails() {
        use rustix::io::Errno;
        assert!(is_without_sync(&Errno::INVAL.into()) && is_without_sync(&Errno::NOTSUP.into()));
        assert!(!is_without_sync(&Errno::IO.into()) && !is_without_sync(&Errno::NOSPC.into()));
    }

    #[cfg(unix)]
    #[test]
    fn written_files_are_as_readable_as_others() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (plain, ours) = (dir.path().join("plain"), dir.path().join("ours"));
        fs::write(&plain, "").unwrap();
        replace_file(&ours, |_| Ok(())).unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }

    #[cfg(unix)]
    #[test]
    fn a_named_pipe_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if !made.is_ok_and(|status| status.success()) {
            edkm_testkit::skipped("no mkfifo");
            return;
        }
        assert!(matches!(open_regular(&pipe), Err(LlamaError::NotAFile { .. })));
    }
}
