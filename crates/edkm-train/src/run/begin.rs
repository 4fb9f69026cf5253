//! The trainer of a run, at its first step or at that of a checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use dfdx_edkm::optim::AdamWConfig;
use dfdx_edkm::EdkmDevice;
use edkm_llama::model::{DynamicLlama, DynamicTeacher};
use edkm_llama::names::Parameter;
use edkm_store::Backend;

use super::checkpoint::{RunFolder, Start};
use super::finetune::{Run, Saved};
use super::{before, first_palettes, ClusterSettings, FinetuneSettings, Objective, Observer};
use crate::optimizer_bytes::{gradient_bytes, moment_bytes};
use crate::schedule::LearningRate;
use crate::trainer::{set_temperature, Trainer, TrainerSettings};
use crate::TrainError;

impl<D: EdkmDevice> Run<'_, D> {
    /// The trainer of `model`, which has its clusterings; from the checkpoint, if one is given.
    ///
    /// # Errors
    /// A checkpoint that does not fit, first palettes that cannot be found, a device without the memory that was asked for.
    pub(super) fn begin(
        &self,
        mut model: DynamicLlama<D>,
        store: Arc<dyn Backend>,
        teacher: Option<DynamicTeacher<D>>,
        rate_factors: BTreeMap<String, f32>,
        checkpoint: Option<&Saved>,
        observer: &mut impl Observer,
    ) -> Result<Trainer<D>, TrainError> {
        let Self { settings, device, .. } = self;
        let config = model.config.clone();
        let trainer_settings = TrainerSettings {
            learning_rate: LearningRate::cosine(settings.learning_rate, settings.steps)?,
            temperature: settings.clustering.as_ref().map(ClusterSettings::schedule),
            optimizer: AdamWConfig {
                weight_decay: settings.weight_decay,
                moments: settings.moments,
                ..AdamWConfig::default()
            },
            batch: settings.batch,
            accumulate: settings.accumulate,
            update: settings.update,
        };
        let mut trainer = match checkpoint {
            None => {
                if let Some(clustering) = settings.clustering.as_ref().filter(|c| c.from_step == 0) {
                    first_palettes::find(&mut model, clustering.first_palettes, &self.calibration, observer)?;
                }
                Trainer::new(model, (*device).clone(), trainer_settings, store)
            }
            Some((path, state)) => {
                RunFolder::restore(path, state, &mut model)?;
                let optimizer = RunFolder::optimizer(path, &state.optimizer, *device)?;
                RunFolder::check_optimizer(path, &mut model, &optimizer)?;
                // what the step before left in the clusterings, should there be no step to come
                if let (Some(schedule), Some(last)) = (trainer_settings.temperature, state.step.checked_sub(1)) {
                    set_temperature(&mut model, schedule.unit(), schedule.at(last));
                }
                Trainer::resume(model, optimizer, trainer_settings, store, state.step)
            }
        };
        trainer = trainer.with_rate_factors(rate_factors);
        if settings.checkpoints.start == Start::Finish {
            // it makes no step
            return Ok(without_later_clustering(trainer, settings));
        }
        // behind a first step the moments are there, and so are the weights that a teacher had shared
        let is_there = checkpoint.is_some_and(|(_, state)| state.step > 0);
        let shared = teacher.as_ref().filter(|_| settings.teacher_dir.is_none());
        let shared = shared.map_or(0, DynamicTeacher::shared_bytes);
        let with_first_step = match is_there {
            true => 0,
            false => moment_bytes(&config, settings.moments) + shared,
        };
        let step = trainer.step_count();
        let begins_later = settings.taught_from().filter(|&from| from > 0);
        // it is read or made behind this
        let with_lesson = begins_later.map_or(0, |_| 4 * config.parameter_count());
        let to_come = [gradient_bytes(&config, settings.update), with_first_step, with_lesson];
        if let Some(budget) = settings.device_share.budget(*device, to_come)? {
            trainer = trainer.with_device_budget(budget);
        }
        if let Objective::Teacher(lesson) = settings.objective {
            match (teacher, begins_later, checkpoint) {
                (Some(teacher), ..) => trainer.learn_from(teacher, lesson, 0..settings.steps),
                (None, Some(from), Some((_, state))) if step > from => {
                    let kept = self.folder.teacher(&config, *device, state.teacher)?;
                    trainer.learn_from(before::teacher(&kept)?, lesson, from..settings.steps);
                }
                // it begins on the way
                _ => {}
            }
        }
        Ok(without_later_clustering(trainer, settings))
    }
}

/// A model whose clustering has not begun has none yet.
fn without_later_clustering<D: EdkmDevice>(mut trainer: Trainer<D>, settings: &FinetuneSettings) -> Trainer<D> {
    let step = trainer.step_count();
    let is_later = |from: u64| from > 0 && step <= from;
    if settings.clustering.as_ref().is_some_and(|c| is_later(c.from_step)) {
        trainer.model.set_clustering(&|_: &Parameter| None);
    }
    trainer
}
