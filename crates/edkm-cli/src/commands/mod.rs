//! The commands, one a file.

pub mod bench;
pub mod chat;
pub mod compare;
pub mod compress;
pub mod dry_run;
pub mod eval;
pub mod export;
pub mod finetune;
pub mod generate;
pub mod inspect;
pub mod make_default;
pub mod plan;

use std::path::Path;

use edkm_llama::model::Recompute;
use edkm_train::trainer::Update;

/// What `--checkpoint-layers` and `--checkpoint-attention` ask for.
fn recompute(layers: bool, attention: bool) -> Recompute {
    match (layers, attention) {
        (true, _) => Recompute::Layers,
        (false, true) => Recompute::Attention,
        (false, false) => Recompute::Nothing,
    }
}

/// What `--update-in-backward` asks for.
fn update(in_backward: bool) -> Update {
    match in_backward {
        true => Update::InBackward,
        false => Update::AfterBackward,
    }
}

/// What a command can fail with.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// An error with all that caused it, each said once.
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut said = self.0.to_string();
        write!(f, "{said}")?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // most messages hold that of their cause already
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

/// Refuses to write over a file of another kind: a slip must not cost a model.
///
/// # Errors
/// A file that is there and whose name does not end in `extension`.
pub fn check_written_over(path: &Path, extension: &str) -> Result<(), Failure> {
    let is_alike = path
        .extension()
        .is_some_and(|found| found.eq_ignore_ascii_case(extension));
    match path.exists() && !is_alike {
        true => Err(format!(
            "{} is there and is no .{extension} file; it is left alone, name another",
            path.display()
        )
        .into()),
        false => Ok(()),
    }
}
