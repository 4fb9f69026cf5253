//! Folders that a run may write when none is named.

use std::path::{Path, PathBuf};

use super::checkpoint::run_folder;

/// A folder name that is not taken: `base`, then `base-2`, `base-3` and so on.
pub fn free_folder(base: &Path) -> PathBuf {
    let taken = |path: &Path| {
        path.read_dir()
            .map_or(path.exists(), |mut entries| entries.next().is_some())
    };
    let name = base.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut candidate = base.to_path_buf();
    let mut number = 1;
    while taken(&candidate) || run_folder(&candidate).exists() {
        number += 1;
        candidate = base.with_file_name(format!("{name}-{number}"));
    }
    candidate
}
