//! Run checkpoints: all that a run needs to go on with the same bytes after it was stopped or killed.
//!
//! They live beside the result, in `OUT.run`, so that OUT itself appears whole or stays as it was:
//!
//! ```text
//! OUT.run/arguments.json                 what the run was started with
//! OUT.run/companions/                    the tokenizer and what else goes into OUT as it came
//! OUT.run/teacher.safetensors            the model when its clustering began, if that was not at the first step and it is learned from
//! OUT.run/metrics.jsonl                  one object a step; copied into OUT at the end
//! OUT.run/checkpoints/step-000000000400/ parameters.safetensors, moments.safetensors, state.bin, xxh3
//! OUT.run/best/                          the best model that was measured, as it would be written, where the run keeps it
//! OUT.run/staging                        at the end: the folder in which OUT is built
//! OUT.run/written.json                   at the very end: which model OUT will hold
//! ```
//!
//! A checkpoint is built under another name, synced and renamed. `xxh3` holds the XXH3-128 of all else in it: one that is torn or
//! altered is recognised, and the one before it used. `OUT.run` is there, and locked, from before the model is read, and is removed when OUT is there.
//! A folder of that name in which something else lies is never touched.

mod best;
mod claimed;
mod completed;
mod folder;
mod format;
mod moments;
mod staged;
mod state;

pub(crate) use best::Measured;
pub use claimed::ClaimedFolder;
pub use completed::completed;
pub use folder::{run_folder, RunFolder};
pub use staged::StagedCheckpoint;
pub(crate) use state::{model_fingerprint, Fingerprint};
pub use state::{OptimizerState, RunState};

use std::num::NonZeroU64;

/// When checkpoints are written, and where the run begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointSettings {
    /// Steps between checkpoints; `None` writes one only when the run is interrupted.
    pub every: Option<NonZeroU64>,
    /// The newest so many stay, at least one.
    pub keep: usize,
    /// Where the run begins.
    pub start: Start,
    /// What a later process needs to make the same settings; kept in the folder of the run as it is, and where a run goes on in place of what was, unless it is
    /// empty.
    pub arguments: String,
}

impl Default for CheckpointSettings {
    /// None but at an interruption, from the first step.
    fn default() -> Self {
        Self {
            every: None,
            keep: 2,
            start: Start::Fresh,
            arguments: String::new(),
        }
    }
}

/// Where a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At its first step.
    Fresh,
    /// At its newest checkpoint that is whole.
    Resume,
    /// There too, and at its end: the model is written as it is, without the steps that are left. The run is over then.
    Finish,
}
