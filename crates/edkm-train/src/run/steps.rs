//! All steps of a run: figures, checkpoints, and what is done about numbers that are not finite.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use dfdx_edkm::EdkmDevice;
use edkm_cluster::GradientMode;
use edkm_llama::names::Parameter;

use super::checkpoint::{RunFolder, RunState, Start};
use super::ended::Between;
use super::finetune::Run;
use super::known::Known;
use super::mishaps::Mishaps;
use super::step_log::StepLog;
use super::{
    before, count, first_palettes, ClusterSettings, FinetuneSettings, NonFiniteCounts, Objective, Observer,
    OnNonFinite, Stage, StepReport, TimeLeft,
};
use crate::data::sampler::WindowSampler;
use crate::memory::Resident;
use crate::metrics::{StepMetrics, Throughput};
use crate::trainer::{StepOutcome, Trainer};
use crate::TrainError;

/// How far a run has come.
pub(super) struct Way {
    pub(super) log: StepLog,
    pub(super) mishaps: Mishaps,
    /// Fingerprint of the model that is learned from, if that is in the run's folder or in one of its own.
    pub(super) teacher: Option<u64>,
    /// The step whose checkpoint is the state of now.
    pub(super) saved: Option<u64>,
    /// Where it was when the last step was done; `None` while a checkpoint is put into the model.
    pub(super) between: Option<Between>,
}

impl<D: EdkmDevice> Run<'_, D> {
    /// All steps that are left; their figures go to `metrics.jsonl` as they come. What a run has trained that ends by itself is in a checkpoint then.
    pub(super) fn train(
        &self,
        trainer: &mut Trainer<D>,
        sampler: &mut WindowSampler<'_>,
        known: &Known,
        (non_finite, teacher): (NonFiniteCounts, Option<u64>),
        observer: &mut impl Observer,
    ) -> Result<(StepLog, NonFiniteCounts), TrainError> {
        let log = StepLog::resume(&self.folder.metrics(), trainer.step_count())?;
        let start = self.settings.checkpoints.start;
        if start == Start::Finish {
            self.cluster_at_last(trainer);
            return Ok((log, non_finite));
        }
        let mut way = Way {
            log,
            mishaps: Mishaps::since(non_finite),
            teacher,
            saved: (start == Start::Resume).then_some(trainer.step_count()),
            between: Some(Between::of(trainer, sampler)),
        };
        match self.steps(trainer, sampler, known, &mut way, observer) {
            Ok(()) => Ok((way.log, way.mishaps.counts)),
            Err(error) => Err(self.ended(trainer, known, &mut way, error, observer)),
        }
    }

    fn steps(
        &self,
        trainer: &mut Trainer<D>,
        sampler: &mut WindowSampler<'_>,
        known: &Known,
        way: &mut Way,
        observer: &mut impl Observer,
    ) -> Result<(), TrainError> {
        let settings = self.settings;
        let mut throughput = Throughput::default();
        // what a measurement and a checkpoint take
        let (mut measuring, mut saving) = (Duration::ZERO, Duration::ZERO);
        // a measurement that was interrupted
        if let Some(last) = way
            .log
            .last()
            .filter(|last| last.validation_perplexity.is_none())
            .cloned()
        {
            if let Some(reached) = self.reached(trainer, observer)? {
                way.log.replace_last(StepMetrics {
                    validation_perplexity: Some(reached),
                    ..last
                });
            }
        }
        loop {
            let (done, interrupted) = (trainer.step_count(), observer.interrupted());
            let due = settings
                .checkpoints
                .every
                .is_some_and(|every| done > 0 && (done % every == 0 || done == settings.steps));
            while (interrupted || due) && way.saved != Some(done) {
                let state = known.state(trainer, sampler.position(), way.mishaps.counts, way.teacher);
                let start = Instant::now();
                match self.checkpoint(trainer, &mut way.log, state, settings.checkpoints.keep) {
                    Ok(()) => {
                        way.saved = Some(done);
                        saving = start.elapsed();
                    }
                    Err(why) if interrupted => {
                        if !observer.try_again(&why) {
                            return Err(why);
                        }
                    }
                    Err(why) => {
                        // the training is worth more, and the checkpoint before is there
                        tracing::warn!(
                            "{why}; training goes on, and there is no checkpoint of {}",
                            count(done, "step")
                        );
                        break;
                    }
                }
            }
            if interrupted {
                return Err(TrainError::Interrupted {
                    step: done,
                    steps: settings.steps,
                    out: settings.out.clone(),
                });
            }
            if done >= settings.steps {
                return Ok(());
            }
            if let Some(clustering) = &settings.clustering {
                if clustering.from_step > 0 && clustering.from_step == done {
                    if settings.taught_from() == Some(done) {
                        way.teacher = self.begin_lesson(trainer)?;
                    }
                    trainer.model.set_clustering(clustering);
                    first_palettes::find(
                        &mut trainer.model,
                        clustering.first_palettes,
                        &self.calibration,
                        observer,
                    )?;
                    observer.stage(Stage::Train);
                    // its steps take longer
                    throughput = Throughput::default();
                    observer.meanwhile(&format!(
                        "clustered from here on, behind step {done} of {}",
                        settings.steps
                    ));
                }
            }
            let start = Instant::now();
            let metrics = match trainer.step(sampler) {
                Ok(outcome) => {
                    throughput.add(outcome.tokens, start.elapsed());
                    way.mishaps.in_a_row = 0;
                    let metrics = StepMetrics {
                        tokens_per_second: throughput.tokens_per_second(),
                        ..of_step(trainer, &outcome)
                    };
                    let rest = settings
                        .steps
                        .saturating_sub(trainer.step_count())
                        .saturating_mul(outcome.tokens);
                    observer.step(&StepReport {
                        outcome,
                        steps: settings.steps,
                        tokens_per_second: metrics.tokens_per_second,
                        remaining: throughput.remaining(rest).map(|steps| {
                            let left = steps.saturating_add(self.beside_steps(trainer, measuring, saving));
                            match settings.clustering.as_ref().map_or(0, |c| c.from_step) >= trainer.step_count() {
                                true => TimeLeft::MoreThan(left),
                                false => TimeLeft::About(left),
                            }
                        }),
                    });
                    metrics
                }
                Err(error) if error.is_non_finite() && settings.on_non_finite == OnNonFinite::Skip => {
                    way.mishaps.leave_out(error)?;
                    trainer.skip();
                    StepMetrics {
                        step: done,
                        ..StepMetrics::default()
                    }
                }
                Err(error) if error.is_non_finite() && settings.on_non_finite == OnNonFinite::Rollback => {
                    let step = self.go_back(trainer, way, error)?;
                    way.log = StepLog::resume(&self.folder.metrics(), step)?;
                    // its data are behind those of now
                    way.saved = None;
                    way.between = Some(Between::of(trainer, sampler));
                    continue;
                }
                Err(error) if error.is_non_finite() => {
                    return Err(TrainError::NonFinite {
                        what: advice(
                            &error,
                            settings
                                .clustering
                                .as_ref()
                                .filter(|clustering| clustering.from_step <= done),
                        ),
                        source: Box::new(error),
                    })
                }
                Err(error) => return Err(error),
            };
            way.between = Some(Between::of(trainer, sampler));
            let start = Instant::now();
            let reached = self.reached(trainer, observer);
            if let Ok(Some(_)) = reached {
                measuring = start.elapsed();
            }
            let validation_perplexity = reached.as_ref().copied().unwrap_or_default();
            way.log.add(StepMetrics {
                validation_perplexity,
                ..metrics
            });
            reached?;
        }
    }

    /// Has a model clustered that is written before its clustering began: by k-means alone.
    fn cluster_at_last(&self, trainer: &mut Trainer<D>) {
        let done = trainer.step_count();
        if let Some(clustering) = &self.settings.clustering {
            if clustering.from_step > 0 && done <= clustering.from_step {
                tracing::warn!(
                    "clustering was to begin after {}, and {done} are done: the weights have been trained without it, and the palettes not at all",
                    count(clustering.from_step, "step")
                );
                trainer.model.set_clustering(clustering);
            }
        }
    }

    /// The time of the measurements and checkpoints to come, where each takes so long.
    fn beside_steps(&self, trainer: &Trainer<D>, measuring: Duration, saving: Duration) -> Duration {
        let (done, steps) = (trainer.step_count(), self.settings.steps);
        let FinetuneSettings {
            evaluate_every,
            checkpoints,
            ..
        } = self.settings;
        // the last step's measurement comes when training is done
        let measured = due_after(done, steps.saturating_sub(1), *evaluate_every);
        // and it has a checkpoint if there are any
        let is_between = checkpoints.every.is_some_and(|every| steps % every != 0);
        let saved = due_after(done, steps, checkpoints.every) + u64::from(is_between);
        let times = |one: Duration, times: u64| one.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX));
        times(measuring, measured).saturating_add(times(saving, saved))
    }

    /// Writes a checkpoint of now, which is one of `keep`.
    pub(super) fn checkpoint(
        &self,
        trainer: &mut Trainer<D>,
        log: &mut StepLog,
        state: RunState,
        keep: usize,
    ) -> Result<(), TrainError> {
        log.sync()?;
        let (model, optimizer) = trainer.model_and_optimizer();
        let staged = self.folder.stage(model, optimizer)?;
        staged.finish(state, keep)?;
        Ok(())
    }

    /// What the model has become without clustering is what the rest of the run learns from, if it learns from a model. Kept in the run's folder; gives its
    /// fingerprint.
    fn begin_lesson(&self, trainer: &mut Trainer<D>) -> Result<Option<u64>, TrainError> {
        let Objective::Teacher(lesson) = self.settings.objective else {
            return Ok(None);
        };
        let print = self.folder.keep_teacher(&mut trainer.model)?;
        let steps = trainer.step_count()..self.settings.steps;
        trainer.learn_from(before::teacher(&trainer.model)?, lesson, steps);
        Ok(Some(print))
    }

    /// Model and optimizer as the newest checkpoint has them that the run has not gone back to too often; the data goes on. Gives the checkpoint's step.
    fn go_back(&self, trainer: &mut Trainer<D>, way: &mut Way, error: TrainError) -> Result<u64, TrainError> {
        let (path, state) = way.mishaps.go_back(error, |before| {
            let (path, state, _) = self.folder.newest_before(before).ok()?;
            Some((path, state.step, state))
        })?;
        way.between = None;
        if let Some(clustering) = &self.settings.clustering {
            trainer.model.set_clustering(clustering);
        }
        RunFolder::restore(&path, &state, &mut trainer.model)?;
        if let Some(clustering) = &self.settings.clustering {
            if clustering.from_step > 0 && state.step <= clustering.from_step {
                trainer.model.set_clustering(&|_: &Parameter| None);
            }
        }
        let optimizer = RunFolder::optimizer(&path, &state.optimizer, self.device)?;
        RunFolder::check_optimizer(&path, &mut trainer.model, &optimizer)?;
        trainer.go_back(optimizer, state.step);
        // they led to where it failed again and again
        self.folder.remove_after(state.step)?;
        Ok(state.step)
    }
}

/// How often something is due behind the steps from `done` to `last`, which comes every so many of them: that of `done` is still to come.
fn due_after(done: u64, last: u64, every: Option<NonZeroU64>) -> u64 {
    let until = |step: u64| every.map_or(0, |every| step / every);
    until(last).saturating_sub(until(done.saturating_sub(1)))
}

/// What may help where a run ends at something that is not finite, in a step that clusters so.
fn advice(error: &TrainError, clustering: Option<&ClusterSettings>) -> String {
    let is_unrolled = clustering.is_some_and(|clustering| clustering.gradient == GradientMode::Unrolled);
    let implicit = match is_unrolled && matches!(error, TrainError::Update { .. }) {
        true => "or take --gradient implicit, as gradients through repeated k-means grow with --iterations and many clusters; ",
        false => "",
    };
    format!("{implicit}or leave such steps out with --on-non-finite skip")
}

fn of_step<D: EdkmDevice>(trainer: &Trainer<D>, outcome: &StepOutcome) -> StepMetrics {
    let Resident { now, peak } = Resident::read();
    StepMetrics {
        step: outcome.step,
        loss: Some(outcome.loss),
        learning_rate: outcome.learning_rate,
        temperature: outcome.temperature,
        gradient_norm: Some(outcome.gradient_norm),
        tokens: outcome.tokens,
        tokens_per_second: 0.0,
        saved_bytes: trainer.store().report().peak_bytes,
        rss_bytes: now,
        peak_rss_bytes: peak,
        validation_perplexity: None,
    }
}

#[cfg(test)]
mod tests {
    use dfdx_edkm::optim::StepError;
    use edkm_cluster::Bits;

    use super::*;

    fn error() -> TrainError {
        TrainError::LossNotFinite {
            step: 7,
            loss: f64::NAN,
            tensor: Some("the output of layer 3".to_owned()),
        }
    }

    #[test]
    fn what_is_due_is_counted_from_the_present_step_on() {
        let every = NonZeroU64::new(4);
        let due = [0, 3, 4, 5, 8, 9].map(|done| due_after(done, 9, every));
        assert_eq!(due, [2, 2, 2, 1, 1, 0]);
        assert_eq!(due_after(3, 9, None), 0);
    }

    #[test]
    fn a_gradient_that_was_unrolled_may_be_taken_otherwise() {
        let unrolled = ClusterSettings::new(Bits::new(8).unwrap(), 10);
        let implicit = ClusterSettings {
            gradient: GradientMode::Implicit,
            ..unrolled.clone()
        };
        let gradient = TrainError::Update {
            step: 3,
            source: StepError::NotFinite {
                parameter: "x".to_owned(),
            },
        };
        for (error, clustering, helps) in [
            (&gradient, Some(&unrolled), true),
            (&gradient, Some(&implicit), false),
            (&gradient, None, false),
            (&error(), Some(&unrolled), false),
        ] {
            let said = advice(error, clustering);
            assert_eq!(said.contains("--gradient implicit"), helps, "{said}");
            assert!(said.ends_with("--on-non-finite skip"), "{said}");
        }
    }
}
