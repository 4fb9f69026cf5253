//! Where a target writes the files that it has read.

use std::path::PathBuf;
use std::sync::LazyLock;

/// A folder of this process.
pub static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("edkm-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for temporary files");
    folder
});
