//! The model as it came: what it is measured by, learned from and clustered from.

use std::collections::BTreeMap;

use dfdx_edkm::EdkmDevice;
use edkm_llama::model::{DynamicLlama, DynamicTeacher};

use super::checkpoint::{model_fingerprint, RunState, Start};
use super::{baselines, count, rate_factors, Baseline, DataSource, FinetuneSettings, Measure, Observer, Stage};
use crate::data::TokenStream;
use crate::evaluate::{perplexity, perplexity_in_words};
use crate::TrainError;

/// What a run takes from the model as it came.
pub(super) struct Before<D: EdkmDevice> {
    /// Fingerprint of the model.
    pub(super) model: u64,
    /// Fingerprint of the validation text.
    pub(super) validation: u64,
    pub(super) perplexity: f64,
    pub(super) baselines: Vec<Baseline>,
    /// What the run learns from, if that is the model as it came.
    pub(super) teacher: Option<DynamicTeacher<D>>,
    /// Factors of learning rates, by parameter.
    pub(super) rate_factors: BTreeMap<String, f32>,
}

impl<D: EdkmDevice> Before<D> {
    /// Measures `model`, unless that is known from the run that is resumed, and gives it its clusterings.
    ///
    /// # Errors
    /// A model or a text that has changed since the run began; a measurement that failed, or was asked to stop.
    pub(super) fn take(
        settings: &FinetuneSettings,
        model: &mut DynamicLlama<D>,
        validation: &TokenStream,
        resumed: Option<&RunState>,
        observer: &mut impl Observer,
    ) -> Result<Self, TrainError> {
        observer.stage(Stage::EvaluateBefore);
        let (model_print, validation_print) = (model_fingerprint(model), validation.fingerprint());
        let perplexity = match resumed {
            Some(state) => {
                same("model", state.model, model_print)?;
                let measured_on = match settings.validation {
                    DataSource::HeldOut => "training text (its last tenth is measured on)",
                    _ => "validation text",
                };
                same(measured_on, state.validation, validation_print)?;
                observer.result(&format!(
                    "perplexity {}, measured when the run began",
                    perplexity_in_words(state.perplexity_before)
                ));
                state.perplexity_before
            }
            None => {
                let before = perplexity(model, validation, settings.sequence, &mut |share| {
                    observer.advance(share)
                })?;
                observer.result(&format!(
                    "perplexity {} on {}",
                    perplexity_in_words(before.perplexity),
                    count(before.tokens, "token")
                ));
                before.perplexity
            }
        };
        let has_steps = settings.checkpoints.start != Start::Finish;
        let teacher = match settings.taught_from() {
            Some(0) if settings.teacher_dir.is_none() && has_steps => Some(teacher(model)?),
            _ => None,
        };
        if let Some(clustering) = &settings.clustering {
            model.set_clustering(clustering);
        }
        let clustering = settings.clustering.as_ref();
        let bits = clustering.map_or(0.0, |clustering| clustering.bits_a_weight(&model.config));
        let rate_factors = rate_factors::rate_factors(model, settings.rate_unit, bits);
        let baselines = match (settings.baselines, &settings.clustering) {
            (Measure::Yes, Some(clustering)) => {
                observer.stage(Stage::EvaluateBaselines);
                let known = resumed.map_or(&[][..], |state| &state.baselines);
                baselines::measure(model, clustering, known, validation, settings.sequence, observer)?
            }
            _ => Vec::new(),
        };
        Ok(Self {
            model: model_print,
            validation: validation_print,
            perplexity,
            baselines,
            teacher,
            rate_factors,
        })
    }
}

/// The model as it is now, to be learned from.
pub(super) fn teacher<D: EdkmDevice>(model: &DynamicLlama<D>) -> Result<DynamicTeacher<D>, TrainError> {
    DynamicTeacher::new(model).map_err(|error| TrainError::Device {
        reason: format!("the model that is learned from: {error}"),
    })
}

fn same(what: &'static str, saved: u64, current: u64) -> Result<(), TrainError> {
    match saved == current {
        true => Ok(()),
        false => Err(TrainError::Changed { what }),
    }
}
