//! Models by name from the Hugging Face Hub: `hf:OWNER/NAME` in place of a folder, or `hf:OWNER/NAME@REVISION`.

#[cfg(feature = "hub")]
mod download;
#[cfg(not(feature = "hub"))]
#[path = "no_download.rs"]
mod download;
#[cfg(feature = "hub")]
mod environment;
mod name;

use std::path::{Path, PathBuf};

use crate::commands::Failure;
use name::HubName;

/// The folder of a model: the path itself, or where the Hub's cache holds the model of that name, downloaded if it is not there.
///
/// # Errors
/// A file; a name that the Hub does not know, or a Hub that cannot be reached.
pub fn folder(model: &Path) -> Result<PathBuf, Failure> {
    match HubName::of(model)? {
        None if model.is_file() => Err(format!("{} is a file; name the model's folder", model.display()).into()),
        None => Ok(model.to_path_buf()),
        Some(name) => download::folder(&name),
    }
}

/// Whether that is meant as a name of the Hub.
pub fn is_name(model: &Path) -> bool {
    !matches!(HubName::of(model), Ok(None))
}
