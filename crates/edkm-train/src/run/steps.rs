//! All steps of a run: figures, checkpoints, and what is done about numbers that are not finite.

use std::time::{Duration, Instant};

use dfdx_edkm::EdkmDevice;
use edkm_cluster::GradientMode;
use edkm_llama::names::Parameter;

use super::checkpoint::{RunFolder, RunState, Start};
use super::ended::Between;
use super::finetune::Run;
use super::known::Known;
use super::step_log::StepLog;
use super::{
    before, count, first_palettes, ClusterSettings, NonFiniteCounts, Objective, Observer, OnNonFinite, Stage,
    StepReport, MOST_IN_A_ROW, MOST_ROLLBACKS,
};
use crate::data::sampler::WindowSampler;
use crate::memory::Resident;
use crate::metrics::{StepMetrics, Throughput};
use crate::trainer::{StepOutcome, Trainer};
use crate::TrainError;

/// What was not finite lately.
#[derive(Default)]
pub(super) struct Mishaps {
    pub(super) counts: NonFiniteCounts,
    in_a_row: u64,
    /// The step of the checkpoint that the run went back to last, and how often.
    back_to: (u64, u64),
}

/// How far a run has come.
pub(super) struct Way {
    pub(super) log: StepLog,
    pub(super) mishaps: Mishaps,
    /// Fingerprint of the model that is learned from, if that is in the run's folder or in one of its own.
    pub(super) teacher: Option<u64>,
    /// The step whose checkpoint is the state of now.
    pub(super) saved: Option<u64>,
    /// Where it was when the last step was done.
    pub(super) between: Between,
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
            mishaps: Mishaps {
                counts: non_finite,
                ..Mishaps::default()
            },
            teacher,
            saved: (start == Start::Resume).then_some(trainer.step_count()),
            between: Between::of(trainer, sampler),
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
        // what a measurement takes
        let mut measuring = Duration::ZERO;
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
                match self.checkpoint(trainer, &mut way.log, state, settings.checkpoints.keep) {
                    Ok(()) => way.saved = Some(done),
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
                        remaining: throughput
                            .remaining(rest)
                            .map(|steps| steps + self.measuring_left(trainer, measuring)),
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
                    let step = self.go_back(trainer, &mut way.mishaps, error)?;
                    way.log = StepLog::resume(&self.folder.metrics(), step)?;
                    // its data are behind those of now
                    way.saved = None;
                    way.between = Between::of(trainer, sampler);
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
            way.between = Between::of(trainer, sampler);
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

    /// The time of the measurements to come, each taking so long.
    fn measuring_left(&self, trainer: &Trainer<D>, measuring: Duration) -> Duration {
        let every = self.settings.evaluate_every;
        let until = |step: u64| every.map_or(0, |every| step / every.get());
        // the last step's comes when training is done; that of the present one is still to come
        let [last, before] = [self.settings.steps, trainer.step_count()].map(|step| until(step.saturating_sub(1)));
        let left = last.saturating_sub(before);
        measuring.saturating_mul(u32::try_from(left).unwrap_or(u32::MAX))
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

    /// Model and optimizer as the newest checkpoint has them; the data goes on. Gives the checkpoint's step.
    fn go_back(&self, trainer: &mut Trainer<D>, mishaps: &mut Mishaps, error: TrainError) -> Result<u64, TrainError> {
        let (path, state, _) = match self.folder.newest() {
            Ok(newest) => newest,
            Err(_) => {
                return Err(TrainError::NonFinite {
                    what: "there is no checkpoint to go back to yet".to_owned(),
                    source: Box::new(error),
                })
            }
        };
        mishaps.go_back(state.step, error, &path)?;
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
        Ok(state.step)
    }
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

impl Mishaps {
    fn leave_out(&mut self, error: TrainError) -> Result<(), TrainError> {
        self.in_a_row += 1;
        if self.in_a_row > MOST_IN_A_ROW {
            return Err(TrainError::NonFinite {
                what: format!("{MOST_IN_A_ROW} steps before it were left out for the same reason"),
                source: Box::new(error),
            });
        }
        self.counts.skipped += 1;
        tracing::warn!("{error}; the step is left out");
        Ok(())
    }

    fn go_back(&mut self, step: u64, error: TrainError, path: &std::path::Path) -> Result<(), TrainError> {
        if self.back_to.0 != step {
            self.back_to = (step, 0);
        }
        self.back_to.1 += 1;
        if self.back_to.1 > MOST_ROLLBACKS {
            return Err(TrainError::NonFinite {
                what: format!("the run went back to {} {MOST_ROLLBACKS} times before", path.display()),
                source: Box::new(error),
            });
        }
        self.counts.rollbacks += 1;
        tracing::warn!("{error}; going back to {}", path.display());
        Ok(())
    }
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
    fn steps_are_left_out_until_too_many_follow_each_other() {
        let mut mishaps = Mishaps::default();
        for _ in 0..MOST_IN_A_ROW {
            mishaps.leave_out(error()).unwrap();
        }
        let refused = mishaps.leave_out(error()).unwrap_err().to_string();
        for part in ["step 8", "NaN", "the output of layer 3", "16 steps"] {
            assert!(refused.contains(part), "{refused}");
        }
        mishaps.in_a_row = 0;
        mishaps.leave_out(error()).unwrap();
        assert_eq!(mishaps.counts.skipped, MOST_IN_A_ROW + 1);
    }

    #[test]
    fn a_newer_checkpoint_may_be_gone_back_to_again() {
        let path = std::path::Path::new("out.run");
        let mut mishaps = Mishaps::default();
        for step in [4, 8] {
            for _ in 0..MOST_ROLLBACKS {
                mishaps.go_back(step, error(), path).unwrap();
            }
        }
        assert!(mishaps.go_back(8, error(), path).is_err());
        assert_eq!(mishaps.counts.rollbacks, 2 * MOST_ROLLBACKS);
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
