//! Where a target writes the files that it has read.

use std::path::PathBuf;
use std::sync::LazyLock;

/// A folder of this process, with the files that some targets look for beside their own.
pub static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("edkm-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for temporary files");
    std::fs::write(folder.join("one.safetensors"), [&8u64.to_le_bytes()[..], b"{}      "].concat()).expect("a file");
    folder
});
