//! What is known of a run when its first step begins, and is kept in each of its checkpoints.

use std::collections::BTreeMap;
use std::time::Instant;

use dfdx_edkm::EdkmDevice;

use super::checkpoint::{OptimizerState, RunState};
use super::{Baseline, BitsChoice, NonFiniteCounts, SavedBytes};
use crate::data::sampler::Position;
use crate::trainer::Trainer;

/// What no step changes.
pub(super) struct Known {
    /// What determines the run, by name.
    pub(super) settings: BTreeMap<String, String>,
    /// The rules for single layers, as TOML.
    pub(super) layer_rules: String,
    pub(super) bits_chosen: Vec<BitsChoice>,
    /// Fingerprint of the model as it came.
    pub(super) model: u64,
    /// Fingerprint of the validation text.
    pub(super) validation: u64,
    pub(super) perplexity_before: f64,
    pub(super) baselines: Vec<Baseline>,
    /// What processes before this one kept for backward.
    pub(super) saved_bytes: SavedBytes,
    pub(super) clock: Clock,
}

impl Known {
    /// The state of the run that `trainer` is in, at a place of its data.
    pub(super) fn state<D: EdkmDevice>(
        &self,
        trainer: &mut Trainer<D>,
        position: Position,
        non_finite: NonFiniteCounts,
        teacher: Option<u64>,
    ) -> RunState {
        let saved_bytes = self.saved_bytes.max(SavedBytes::of(trainer));
        let optimizer = trainer.optimizer();
        RunState {
            settings: self.settings.clone(),
            step: trainer.step_count(),
            optimizer: OptimizerState {
                config: *optimizer.config(),
                step: optimizer.step_count(),
            },
            clusterings: Default::default(),
            layer_rules: self.layer_rules.clone(),
            bits_chosen: self.bits_chosen.clone(),
            position,
            model: self.model,
            validation: self.validation,
            teacher,
            perplexity_before: self.perplexity_before,
            baselines: self.baselines.iter().map(|baseline| baseline.perplexity).collect(),
            non_finite,
            saved_bytes,
            training_seconds: self.clock.training_seconds(),
            seconds: self.clock.seconds(),
        }
    }
}

/// Wall time of a run, over all processes that worked on it.
pub(super) struct Clock {
    /// When this process began with it.
    pub(super) begun: Instant,
    /// When this process began with its steps.
    pub(super) training: Instant,
    /// Seconds of processes before this one.
    pub(super) earlier: f64,
    /// Seconds of training before the steps of this process, the choice of bits among them.
    pub(super) earlier_training: f64,
}

impl Clock {
    /// Of the run.
    pub(super) fn seconds(&self) -> f64 {
        self.earlier + self.begun.elapsed().as_secs_f64()
    }

    /// Of training.
    pub(super) fn training_seconds(&self) -> f64 {
        self.earlier_training + self.training.elapsed().as_secs_f64()
    }
}
