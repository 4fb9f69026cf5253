//! A run that ends by itself on its way: what it has trained is kept.

use dfdx_edkm::EdkmDevice;

use super::checkpoint::RunState;
use super::finetune::Run;
use super::known::Known;
use super::non_finite::parameter_not_finite;
use super::steps::Way;
use super::{count, Observer};
use crate::data::sampler::{Position, WindowSampler};
use crate::trainer::Trainer;
use crate::TrainError;

/// Where a run is when its last step is done and the next has not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Between {
    step: u64,
    /// Updates of the optimizer: a step that fails may have made a part of one.
    updates: u64,
    position: Position,
}

impl Between {
    pub(super) fn of<D: EdkmDevice>(trainer: &Trainer<D>, sampler: &WindowSampler<'_>) -> Self {
        Self {
            step: trainer.step_count(),
            updates: trainer.optimizer().step_count(),
            position: sampler.position(),
        }
    }
}

impl<D: EdkmDevice> Run<'_, D> {
    /// Writes a checkpoint of the steps that were done before `error`, unless there is one, and says where they are.
    pub(super) fn ended(
        &self,
        trainer: &mut Trainer<D>,
        known: &Known,
        way: &mut Way,
        error: TrainError,
        observer: &mut impl Observer,
    ) -> TrainError {
        if matches!(error, TrainError::Interrupted { .. }) {
            return error;
        }
        if trainer.step_count() > 0 && way.saved != Some(trainer.step_count()) {
            if let Some(why) = self.lost(trainer, way) {
                tracing::warn!("{why}: there is no checkpoint of {}", count(way.between.step, "step"));
            } else {
                let state = known.state(trainer, way.between.position, way.mishaps.counts, way.teacher);
                self.keep_steps(trainer, way, state, &error, observer);
            }
        }
        match self.folder.newest_step() {
            None => error,
            Some(step) => TrainError::Ended {
                step,
                steps: self.settings.steps,
                out: self.settings.out.clone(),
                source: Box::new(error),
            },
        }
    }

    /// Why the trainer is not what the steps that are done have made it, or of no use.
    fn lost(&self, trainer: &mut Trainer<D>, way: &Way) -> Option<String> {
        let updates = trainer.optimizer().step_count();
        if (trainer.step_count(), updates) != (way.between.step, way.between.updates) {
            return Some("a part of the step was made already".to_owned());
        }
        if let Err(why) = self.device.try_synchronize() {
            return Some(format!("the device failed ({why})"));
        }
        parameter_not_finite(&mut trainer.model).map(|name| format!("{name} is not finite"))
    }

    /// Writes the checkpoint, as long as there may be room for it.
    fn keep_steps(
        &self,
        trainer: &mut Trainer<D>,
        way: &mut Way,
        state: RunState,
        error: &TrainError,
        observer: &mut impl Observer,
    ) {
        // the last steps may be what made the run fail, so those before them stay
        let keep = self.settings.checkpoints.keep.saturating_add(1);
        let mut said = false;
        loop {
            let Err(why) = self.checkpoint(trainer, &mut way.log, state.clone(), keep) else {
                return;
            };
            if !std::mem::replace(&mut said, true) {
                tracing::warn!("{error}");
            }
            if !why.is_full() || observer.interrupted() || !observer.try_again(&why) {
                tracing::warn!("{why}; there is no checkpoint of {}", count(way.between.step, "step"));
                return;
            }
        }
    }
}
