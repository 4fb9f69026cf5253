//! A checkpoint that is being written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dfdx_edkm::optim::AdamW;
use dfdx_edkm::{ClusteringState, EdkmDevice};
use edkm_llama::checkpoint::write_safetensors;
use edkm_llama::files::{exchange, sync_folder};
use edkm_llama::model::DynamicLlama;

use super::folder::PARTIAL;
use super::format::{checksum, write_state, CHECKSUM, MOMENTS, PARAMETERS, STATE};
use super::state::take;
use super::{moments, RunFolder, RunState};
use crate::files::write_whole;
use crate::run::count;
use crate::TrainError;

impl RunFolder {
    /// Writes the parameters of `model` and the moments of `optimizer` into a checkpoint that [`StagedCheckpoint::finish`] makes whole. Memory: a copy of
    /// the largest of them.
    ///
    /// # Errors
    /// A system that does not write.
    pub fn stage<D: EdkmDevice>(
        &self,
        model: &mut DynamicLlama<D>,
        optimizer: &AdamW<D>,
    ) -> Result<StagedCheckpoint<'_>, TrainError> {
        let parent = self.checkpoints_path();
        let staging = tempfile::Builder::new()
            .prefix(PARTIAL)
            .tempdir_in(&parent)
            .map_err(TrainError::io("make a folder in", &parent))?;
        let taken = take(model);
        write_safetensors(&staging.path().join(PARAMETERS), taken.parameters, &BTreeMap::new())?;
        moments::write(&staging.path().join(MOMENTS), optimizer)?;
        Ok(StagedCheckpoint {
            folder: self,
            staging,
            clusterings: taken.clusterings,
        })
    }
}

/// A checkpoint in the making: parameters and moments are written.
#[derive(Debug)]
pub struct StagedCheckpoint<'f> {
    folder: &'f RunFolder,
    staging: tempfile::TempDir,
    clusterings: BTreeMap<String, ClusteringState>,
}

impl StagedCheckpoint<'_> {
    /// Writes the rest of the state, puts the checkpoint in its place, then removes those before it but for the newest `keep` with it, and any of later steps: the run
    /// is not one that came there, or they were damaged. The palettes of `state` are those of the model.
    ///
    /// # Errors
    /// A system that does not write; the checkpoints before it are then as they were. Where one of them cannot be removed, a warning says so.
    pub fn finish(self, mut state: RunState, keep: usize) -> Result<PathBuf, TrainError> {
        let (parent, staging) = (self.folder.checkpoints_path(), self.staging.path());
        state.clusterings = self.clusterings;
        write_state(&staging.join(STATE), &state)?;
        let sum = checksum(staging)?;
        write_whole(&staging.join(CHECKSUM), sum.as_bytes())?;
        let target = self.folder.checkpoint_path(state.step);
        let moved = TrainError::io("rename", &target);
        match target.exists() {
            // of the same step: damaged, or from before the run went back; there is one of them at every moment, if need be under another name that a run which goes
            // on finds, and the other goes with `self`
            true => exchange(staging, &target).map_err(moved)?,
            false => fs::rename(staging, &target).map_err(moved)?,
        }
        sync_folder(&parent)?;
        // the checkpoint is there, whatever becomes of the others
        if let Err(why) = self.folder.remove_all_but(&target, keep) {
            tracing::warn!("{why}; the checkpoint of {} is written", count(state.step, "step"));
        }
        Ok(target)
    }
}

impl RunFolder {
    /// Removes the checkpoints but for `newest` and those next to it before, `keep` in all.
    fn remove_all_but(&self, newest: &Path, keep: usize) -> Result<(), TrainError> {
        let (before, after): (Vec<_>, Vec<_>) = self
            .checkpoints()?
            .into_iter()
            .filter(|path| path != newest)
            .partition(|path| path.as_path() < newest);
        let kept = keep.saturating_sub(1).min(before.len());
        let removed = before[..before.len() - kept].iter().chain(&after);
        let outcomes: Vec<_> = removed
            .map(|old| fs::remove_dir_all(old).map_err(TrainError::io("remove", old)))
            .collect();
        outcomes.into_iter().collect()
    }
}
