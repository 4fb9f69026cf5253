//! A run that ends by itself on its way: what it has trained is kept.

use dfdx_edkm::EdkmDevice;

use super::checkpoint::RunState;
use super::finetune::Run;
use super::known::Known;
use super::non_finite::parameter_not_finite;
use super::observer::is_tried_again;
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
        let done = trainer.step_count();
        if done > 0 && way.saved != Some(done) {
            match self.whole(trainer, way) {
                Ok(position) => {
                    let state = known.state(trainer, position, way.mishaps.counts, way.teacher);
                    self.keep_steps(trainer, way, state, &error, observer);
                }
                Err(why) => tracing::warn!("{why}: there is no checkpoint of {}", count(done, "step")),
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

    /// The place of the data behind the steps that are done, if the trainer is what these have made it, and of use.
    fn whole(&self, trainer: &mut Trainer<D>, way: &Way) -> Result<Position, String> {
        let (step, updates) = (trainer.step_count(), trainer.optimizer().step_count());
        let between = way.between.ok_or("a checkpoint was being put into the model")?;
        if (step, updates) != (between.step, between.updates) {
            return Err("a part of the step was made already".to_owned());
        }
        let device = self.device.try_synchronize();
        device.map_err(|why| format!("the device failed ({why})"))?;
        match parameter_not_finite(&mut trainer.model) {
            Some(name) => Err(format!("{name} is not finite")),
            None => Ok(between.position),
        }
    }

    /// Writes the checkpoint, as long as the system may come to take it.
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
            if !is_tried_again(observer, &why) {
                tracing::warn!(
                    "{why}; there is no checkpoint of {}",
                    count(trainer.step_count(), "step")
                );
                return;
            }
        }
    }
}
