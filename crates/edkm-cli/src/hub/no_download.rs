//! A program that was built without the feature `hub`.

use std::path::PathBuf;

use super::name::HubName;
use crate::commands::Failure;

pub(super) fn folder(name: &HubName) -> Result<PathBuf, Failure> {
    Err(
        format!("{name}: this program was built without the feature `hub`; download the model and give its folder")
            .into(),
    )
}
