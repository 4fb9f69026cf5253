//! The name of a model on the Hub.

use std::fmt;
use std::path::Path;

use crate::commands::Failure;

/// `hf:OWNER/NAME`, or `hf:OWNER/NAME@REVISION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// `OWNER/NAME`
    pub repository: String,
    /// A branch, tag or commit, or `refs/pr/N` for what is proposed; without it, `main`.
    pub revision: Option<String>,
}

impl HubName {
    /// The name that a path stands for; `None` for a path that is one.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, Failure> {
        let Some(name) = path.to_str().and_then(|path| path.strip_prefix("hf:")) else {
            return Ok(None);
        };
        let (repository, revision) = match name.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (name, None),
        };
        let parts: Vec<&str> = repository.split('/').collect();
        let in_revision = revision.into_iter().flat_map(|revision| revision.split('/'));
        if parts.len() != 2 || !parts.iter().copied().chain(in_revision).all(is_plain) {
            return Err(
                format!("hf:{name} is no name on the Hub; expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION").into(),
            );
        }
        Ok(Some(Self {
            repository: repository.to_owned(),
            revision: revision.map(str::to_owned),
        }))
    }
}

/// What names on the Hub consist of: nothing that leads out of a folder or an address.
fn is_plain(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.is_empty() && part.chars().all(allowed) && !part.starts_with('.') && !part.contains("..")
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}", self.repository)?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        let of = |text: &str| HubName::of(Path::new(text));
        assert_eq!(of("models/hf").unwrap(), None);
        let name = of("hf:HuggingFaceTB/SmolLM-135M@v1.0").unwrap().unwrap();
        assert_eq!(
            (name.repository.as_str(), name.revision.as_deref()),
            ("HuggingFaceTB/SmolLM-135M", Some("v1.0"))
        );
        assert_eq!(name.to_string(), "hf:HuggingFaceTB/SmolLM-135M@v1.0");
        let name = of("hf:a/b@refs/pr/4").unwrap().unwrap();
        assert_eq!(name.revision.as_deref(), Some("refs/pr/4"));
        for wrong in [
            "hf:",
            "hf:name",
            "hf:a/b/c",
            "hf:../b",
            "hf:a/b@",
            "hf:a/..",
            "hf:a b/c",
            "hf:a/b@x/../y",
            "hf:a/b?c",
            "hf:a/b@/x",
            "hf:a/b@x//y",
        ] {
            assert!(of(wrong).unwrap_err().to_string().contains("hf:OWNER/NAME"), "{wrong}");
        }
    }
}
