//! One optimizer step after the other.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use dfdx::prelude::*;
use dfdx_edkm::ops::cross_entropy::Targets;
use dfdx_edkm::optim::{AdamW, AdamWConfig, StepError};
use dfdx_edkm::{backward, gradients_of, visit_clustered, DeviceBudget, EdkmDevice, StoreTape};
use edkm_cluster::Temperature;
use edkm_llama::model::{Distillation, DynamicLlama, DynamicTeacher, Segments, Tokens};
use edkm_store::Backend;

use crate::data::sampler::WindowSampler;
use crate::data::windows::Batch;
use crate::lesson::Lesson;
use crate::run::first_not_finite;
use crate::schedule::{LearningRate, TemperatureSchedule, TemperatureUnit};
use crate::TrainError;

/// How a run goes from step to step.
#[derive(Debug, Clone)]
pub struct TrainerSettings {
    /// Learning rate of each step.
    pub learning_rate: LearningRate,
    /// Temperature of the clustering at each step; `None` leaves it as the clustering's settings have it.
    pub temperature: Option<TemperatureSchedule>,
    /// Betas, decay, clipping.
    pub optimizer: AdamWConfig,
    /// Sequences of one forward pass.
    pub batch: usize,
    /// Forward and backward passes whose gradients make one step.
    pub accumulate: usize,
    /// When parameters are updated.
    pub update: Update,
}

/// When the parameters are updated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Update {
    /// When all gradients are there, 4 bytes a parameter, which are clipped to their norm.
    #[default]
    AfterBackward,
    /// A part of the model at a time, as soon as its gradients are whole: the gradients of one layer are there at a time, and clipped on their own (see
    /// [`AdamW::backward_and_step`]). Each step has one forward pass.
    InBackward,
}

/// A model in training: parameters, optimizer, store.
pub struct Trainer<D: EdkmDevice> {
    /// The model.
    pub model: DynamicLlama<D>,
    optimizer: AdamW<D>,
    settings: TrainerSettings,
    /// The model whose predictions are learned, if it is not the text alone.
    teacher: Option<Taught<D>>,
    store: Arc<dyn Backend>,
    device_budget: Option<DeviceBudget>,
    step: u64,
}

/// A loss with its tape.
type Loss<D> = Tensor<Rank0, f32, D, StoreTape<f32, D>>;

/// A model that is learned of, and how over the run.
struct Taught<D: EdkmDevice> {
    teacher: DynamicTeacher<D>,
    lesson: Lesson,
    /// The steps that learn of it.
    steps: Range<u64>,
}

impl<D: EdkmDevice> Taught<D> {
    /// What `step` learns, if it does.
    fn at(&self, step: u64) -> Option<(&DynamicTeacher<D>, Distillation)> {
        let since = step.checked_sub(self.steps.start)?;
        let steps = self.steps.end.saturating_sub(self.steps.start);
        Some((&self.teacher, self.lesson.at(since, steps)?))
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOutcome {
    /// The step, from 0.
    pub step: u64,
    /// The text's cross-entropy before the update, in nats a token, whatever its part in what the step learned from.
    pub loss: f64,
    /// Norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// The learning rate used.
    pub learning_rate: f64,
    /// The temperature used, if there is a schedule and the clustering has begun.
    pub temperature: Option<f64>,
    /// Tokens the model has read.
    pub tokens: u64,
}

impl<D: EdkmDevice> Trainer<D> {
    /// A run at its first step. What ops save for backward goes to `store`.
    pub fn new(model: DynamicLlama<D>, device: D, settings: TrainerSettings, store: impl Backend) -> Self {
        let optimizer = AdamW::new(device, settings.optimizer);
        Self {
            model,
            optimizer,
            settings,
            teacher: None,
            store: Arc::new(store),
            device_budget: None,
            step: 0,
        }
    }

    /// A run that goes on at `step` with an optimizer restored from its state.
    pub fn resume(
        model: DynamicLlama<D>,
        optimizer: AdamW<D>,
        settings: TrainerSettings,
        store: impl Backend,
        step: u64,
    ) -> Self {
        Self {
            model,
            optimizer,
            settings,
            teacher: None,
            store: Arc::new(store),
            device_budget: None,
            step,
        }
    }

    /// In those steps part of the loss is from now on what the model loses against `teacher`.
    pub fn learn_from(&mut self, teacher: DynamicTeacher<D>, lesson: Lesson, steps: Range<u64>) {
        self.teacher = Some(Taught { teacher, lesson, steps });
    }

    /// The same run, which leaves of what ops save for backward as much as `budget` allows on the device.
    pub fn with_device_budget(self, budget: DeviceBudget) -> Self {
        Self {
            device_budget: Some(budget),
            ..self
        }
    }

    /// The same run, with the learning rates of the parameters that are named multiplied by factors of their own.
    pub fn with_rate_factors(self, factors: BTreeMap<String, f32>) -> Self {
        Self {
            optimizer: self.optimizer.with_rate_factors(factors),
            ..self
        }
    }

    /// Steps made so far.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Leaves a step out: learning rate and temperature go on as if it had been made.
    pub fn skip(&mut self) {
        self.step += 1;
    }

    /// Goes back to `step`, with the optimizer of that moment; the model is the caller's to restore.
    pub fn go_back(&mut self, optimizer: AdamW<D>, step: u64) {
        self.optimizer = optimizer.with_rate_factors(self.optimizer.rate_factors().clone());
        self.step = step;
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &AdamW<D> {
        &self.optimizer
    }

    /// Model and optimizer, for a checkpoint.
    pub fn model_and_optimizer(&mut self) -> (&mut DynamicLlama<D>, &AdamW<D>) {
        (&mut self.model, &self.optimizer)
    }

    /// The model; all else is freed.
    pub fn into_model(self) -> DynamicLlama<D> {
        self.model
    }

    /// What stays on the device of what ops save, if anything may.
    pub fn device_budget(&self) -> Option<&DeviceBudget> {
        self.device_budget.as_ref()
    }

    /// The store, for its report.
    pub fn store(&self) -> &dyn Backend {
        &*self.store
    }

    /// One step on the sampler's next windows.
    ///
    /// # Errors
    /// A loss or gradient that is not finite (the parameters are then as they were; with [`Update::InBackward`] and a gradient, those of layers behind
    /// it are updated), an op that failed, a store that failed.
    pub fn step(&mut self, sampler: &mut WindowSampler<'_>) -> Result<StepOutcome, TrainError> {
        let _span = tracing::trace_span!("step", index = self.step).entered();
        let batches: Vec<Batch> = (0..self.settings.accumulate.max(1))
            .map(|_| sampler.next_batch(self.settings.batch))
            .collect();
        let schedule = self
            .settings
            .temperature
            .filter(|schedule| self.step >= schedule.start());
        let temperature = schedule.map(|schedule| schedule.at(self.step));
        if let (Some(value), Some(schedule)) = (temperature, schedule) {
            set_temperature(&mut self.model, schedule.unit(), value);
        }
        let tokens = batches.iter().map(|batch| batch.inputs.len() as u64).sum();
        let learning_rate = self.settings.learning_rate.at(self.step);
        let (loss, gradient_norm) = match self.settings.update {
            Update::AfterBackward => self.update_after(batches, learning_rate),
            Update::InBackward => self.update_in_backward(batches, learning_rate),
        }?;
        let outcome = StepOutcome {
            step: self.step,
            loss,
            gradient_norm,
            learning_rate,
            temperature,
            tokens,
        };
        self.step += 1;
        Ok(outcome)
    }

    /// All passes, whose gradients are summed, and the update. Gives the loss, and the norm of the sum.
    fn update_after(&mut self, batches: Vec<Batch>, learning_rate: f64) -> Result<(f64, f64), TrainError> {
        let counted: f64 = batches.iter().map(Batch::counted).sum();
        let tokens: usize = batches.iter().map(|batch| batch.inputs.len()).sum();
        let mut gradients = gradients_of(&mut self.model);
        let mut loss = 0.0;
        for batch in batches {
            let share = if counted > 0.0 { batch.counted() / counted } else { 0.0 };
            // hidden states are those of all tokens, also of those whose prediction does not count
            let of_hidden = match share > 0.0 {
                true => batch.inputs.len() as f64 / tokens as f64 / share,
                false => 0.0,
            };
            let (part, next) = self.forward_backward(batch, share, of_hidden, gradients)?;
            loss += part * share;
            gradients = next;
        }
        let norm = self
            .optimizer
            .step(&mut self.model, &mut gradients, learning_rate, 1.0)
            .map_err(|source| self.update_failed(source))?;
        Ok((loss, norm))
    }

    /// A forward pass, and a backward pass in which the parameters are updated.
    fn update_in_backward(&mut self, batches: Vec<Batch>, learning_rate: f64) -> Result<(f64, f64), TrainError> {
        let [batch]: [Batch; 1] = batches.try_into().map_err(|batches: Vec<Batch>| TrainError::Setting {
            setting: "number of forward passes of a step that updates in backward",
            value: batches.len().to_string(),
            expected: "1: gradients are not kept for the next",
        })?;
        let gradients = gradients_of(&mut self.model);
        let (value, loss) = self.forward(batch, 1.0, gradients)?;
        let norm = self
            .optimizer
            .backward_and_step(&mut self.model, loss, learning_rate)
            .map_err(|source| self.update_failed(source))?;
        Ok((value, norm))
    }

    /// Loss of one batch, and `gradients` with its own added, scaled by `share`; `of_hidden` as for [`Self::forward`].
    fn forward_backward(
        &mut self,
        batch: Batch,
        share: f64,
        of_hidden: f64,
        gradients: Gradients<f32, D>,
    ) -> Result<(f64, Gradients<f32, D>), TrainError> {
        let (value, loss) = self.forward(batch, of_hidden, gradients)?;
        let loss = if share == 1.0 {
            loss
        } else {
            loss.try_mul(share as f32)
                .map_err(|device| self.failed("forward", None, device))?
        };
        let gradients = backward(loss).map_err(|source| TrainError::Step {
            step: self.step,
            source,
        })?;
        Ok((value, gradients))
    }

    /// Cross-entropy of one batch, and what is learned of it, a finite loss, on a tape that adds to `gradients`. The weight of hidden states is multiplied by
    /// `of_hidden`.
    fn forward(
        &mut self,
        batch: Batch,
        of_hidden: f64,
        gradients: Gradients<f32, D>,
    ) -> Result<(f64, Loss<D>), TrainError> {
        let mut tape = StoreTape::shared(self.store.clone(), gradients);
        if let Some(budget) = &self.device_budget {
            tape = tape.with_device_budget(budget);
        }
        let failure = tape.failure();
        let (tokens, targets) = model_input(batch);
        let forward = tracing::trace_span!("forward").entered();
        let lesson = self.teacher.as_ref().and_then(|taught| taught.at(self.step));
        let outcome = match lesson {
            None => self.model.try_loss(&tokens, targets, tape).map(|loss| (loss, None)),
            Some((teacher, lesson)) => {
                let lesson = Distillation {
                    hidden: (f64::from(lesson.hidden) * of_hidden) as f32,
                    ..lesson
                };
                self.model
                    .try_distillation_loss(teacher, lesson, &tokens, targets, tape)
                    .map(|taught| (taught.loss, Some(taught.cross_entropy)))
            }
        };
        let (loss, cross_entropy) = match outcome {
            Ok(outcome) => outcome,
            Err(device) => return Err(self.failed("forward", failure.take(), device)),
        };
        drop(forward);
        let value = f64::from(loss.as_vec()[0]);
        if !value.is_finite() {
            drop(loss);
            let tensor = first_not_finite(&mut self.model, &tokens);
            return Err(TrainError::LossNotFinite {
                step: self.step,
                loss: value,
                tensor,
            });
        }
        Ok((cross_entropy.unwrap_or(value), loss))
    }

    fn failed(&self, pass: &'static str, failure: Option<dfdx_edkm::EdkmError>, device: D::Err) -> TrainError {
        let source = failure.unwrap_or_else(|| dfdx_edkm::EdkmError::Device(format!("{pass}: {device}")));
        TrainError::Step {
            step: self.step,
            source,
        }
    }

    fn update_failed(&self, source: StepError) -> TrainError {
        let step = self.step;
        match source {
            StepError::Backward(source) => TrainError::Step { step, source },
            source => TrainError::Update { step, source },
        }
    }
}

/// Sets the temperature of every clustering in the model.
pub fn set_temperature<D: EdkmDevice>(model: &mut DynamicLlama<D>, unit: TemperatureUnit, value: f64) {
    let temperature = match unit {
        TemperatureUnit::Absolute => Temperature::Absolute(value),
        TemperatureUnit::Relative => Temperature::Relative(value),
    };
    let Ok(()) = visit_clustered(model, |weight| {
        weight.clustering.set_temperature(temperature);
        Ok::<(), Infallible>(())
    });
}

/// What of a batch does not see what else, if not all of each sequence sees what is before it.
pub(crate) fn segments(batch: &Batch) -> Option<Segments> {
    let is_cut = batch.stretches.len() > batch.batch;
    is_cut
        .then(|| Segments::new(batch.sequence, &*batch.stretches))
        .flatten()
}

/// A batch as the model takes it.
pub(crate) fn model_input(batch: Batch) -> (Tokens, Targets) {
    let tokens = Tokens {
        segments: segments(&batch),
        ids: batch.inputs.into(),
        batch: batch.batch,
    };
    (
        tokens,
        Targets {
            ids: batch.targets.into(),
            weights: batch.weights.into(),
        },
    )
}

#[cfg(test)]
mod tests;
