//! Memory is measured in a process that does one thing alone, with an allocator that gives freed memory back at once. (Not times: to ask the
//! system for fresh pages over and over takes time.)

use std::process::{Command, Stdio};

use serde::de::DeserializeOwned;

use super::layer::size_arguments;
use crate::args::LayerSizeArgs;
use crate::commands::Failure;

/// For glibc's allocator: freed memory goes back to the system at once.
const FREED_MEMORY_GOES_BACK: [(&str, &str); 2] =
    [("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_TRIM_THRESHOLD_", "0")];

/// Runs `edkm bench ARGUMENTS` for a layer of these sizes and reads the JSON that it prints; `what` is measured.
pub(super) fn measure<T: DeserializeOwned>(
    arguments: &[&str],
    sizes: &LayerSizeArgs,
    what: &str,
) -> Result<T, Failure> {
    let output = Command::new(std::env::current_exe()?)
        .arg("bench")
        .args(arguments)
        .args(size_arguments(sizes))
        .envs(FREED_MEMORY_GOES_BACK)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("measuring {what} failed: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
