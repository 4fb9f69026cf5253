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

use edkm_llama::checkpoint::Overwrite;
use edkm_llama::inference::StopReason;
use edkm_llama::model::Recompute;
use edkm_train::run::checkpoint::RunFolder;
use edkm_train::run::{count, OnLimits};
use edkm_train::text_generation::WrittenText;
use edkm_train::trainer::Update;
use edkm_train::TrainError;

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

/// What `--overwrite` asks for.
fn overwrite(replace: bool) -> Overwrite {
    match replace {
        true => Overwrite::Replace,
        false => Overwrite::Refuse,
    }
}

/// What `--ignore-limits` asks for.
fn on_limits(ignore: bool) -> OnLimits {
    match ignore {
        true => OnLimits::Ignore,
        false => OnLimits::Refuse,
    }
}

/// Why a text ended, as `--json` names it.
fn stop_name(written: &WrittenText) -> &'static str {
    match written.generation.stop {
        StopReason::MaxTokens => "token_limit",
        StopReason::ContextFull => "context_limit",
        StopReason::StopToken(_) => "end_token",
        StopReason::Caller if written.stop_string.is_some() => "stop_string",
        StopReason::Caller => "reader_gone",
    }
}

/// What a command can fail with.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where the best model of the run that was to write `out` is, if it has kept one.
fn best_of(out: &Path) -> String {
    let best = RunFolder::open(out).best_model();
    best.map_or(String::new(), |best| {
        format!(" (the best model so far is in {})", best.display())
    })
}

/// What this program's user can do about a run that ended or cannot begin, behind the error's own words.
pub fn what_to_do(error: &TrainError) -> String {
    match error {
        TrainError::Interrupted { out, .. } => {
            format!(
                "; go on with: edkm finetune --resume {}{}; with --finish behind it the model is written as it is",
                out.display(),
                best_of(out)
            )
        }
        TrainError::Ended { out, step, .. } => format!(
            "; go on with: edkm finetune --resume {}{}; with --finish behind it the model is written as it is after {}",
            out.display(),
            best_of(out),
            count(*step, "step")
        ),
        TrainError::Unfinished { out, .. } => match RunFolder::open(out).newest_step() {
            Some(_) => format!(
                "; go on with: edkm finetune --resume {}{} (or give --overwrite to begin anew)",
                out.display(),
                best_of(out)
            ),
            None => format!("{}; move that away, or give --overwrite to begin anew", best_of(out)),
        },
        TrainError::NoCheckpoint { folder, .. } => {
            let unfinished = folder.with_extension("unfinished");
            let unfinished = match unfinished.is_dir() {
                true => format!(
                    "; the trained model of a run that could not end is in {}",
                    unfinished.display()
                ),
                false => String::new(),
            };
            unfinished + &best_of(&folder.with_extension(""))
        }
        _ => String::new(),
    }
}

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
