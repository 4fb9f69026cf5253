//! `OUT/lock`: one process at a time works on a comparison.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::files;
use crate::TrainError;

/// Held while a process works on a comparison: `OUT/lock`, which goes with it.
pub(super) struct Lock {
    path: PathBuf,
    /// Locked as long as it is open.
    _file: File,
}

impl Lock {
    pub(super) fn of(out: &Path) -> Result<Self, TrainError> {
        let path = out.join("lock");
        Ok(Self {
            _file: files::lock(&path)?,
            path,
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
