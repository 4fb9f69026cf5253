//! The data files that paths stand for.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::DataFormat;
use crate::TrainError;

/// The data files that `paths` name: a folder stands for the `.txt`, `.json` and `.jsonl` files right in it, in the order of their names; hidden ones
/// and files of other kinds are passed over.
///
/// # Errors
/// A folder that cannot be read, or has no data files.
pub fn data_files(paths: &[PathBuf]) -> Result<Cow<'_, [PathBuf]>, TrainError> {
    if !paths.iter().any(|path| path.is_dir()) {
        return Ok(Cow::Borrowed(paths));
    }
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        if path.is_dir() {
            files.append(&mut of_folder(path)?);
        } else {
            files.push(path.clone());
        }
    }
    Ok(Cow::Owned(files))
}

fn of_folder(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(TrainError::io("read", folder))? {
        let path = entry.map_err(TrainError::io("read", folder))?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && DataFormat::of(&path).is_ok() && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(TrainError::NoDataFiles {
            folder: folder.to_path_buf(),
        });
    }
    files.sort();
    Ok(files)
}
