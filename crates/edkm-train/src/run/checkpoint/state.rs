//! The state of a run, taken from a trainer and given back to one.

use std::collections::BTreeMap;

use dfdx::prelude::*;
use dfdx_edkm::optim::AdamWConfig;
use dfdx_edkm::{ClusteringState, EdkmDevice, ParameterKind, ParameterVisitor, Parameters};
use edkm_llama::checkpoint::{Checkpoint, FloatDtype, TensorEntry};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;
use serde::{Deserialize, Serialize};

use crate::data::sampler::Position;
use crate::hash::add_words;
use crate::run::{BitsChoice, NonFiniteCounts, SavedBytes};
use crate::TrainError;

/// Everything but the parameters and the optimizer's moments. Learning rate and temperature follow from the step; the data's order from its position, which is
/// the whole random state of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// What determines the run, by name: a run that goes on does so with the same.
    pub settings: BTreeMap<String, String>,
    /// Steps that are done.
    pub step: u64,
    /// The optimizer.
    pub optimizer: OptimizerState,
    /// The palettes reached, by parameter.
    pub clusterings: BTreeMap<String, ClusteringState>,
    /// The rules for single layers, those of a bits budget among them, as TOML.
    pub layer_rules: String,
    /// What a bits budget chose.
    pub bits_chosen: Vec<BitsChoice>,
    /// Where the run is in its data.
    pub position: Position,
    /// Fingerprint of the model as it came.
    pub model: u64,
    /// Fingerprint of the validation text.
    pub validation: u64,
    /// Fingerprint of the model that is learned from, if that is in the run's folder or in one of its own.
    pub teacher: Option<u64>,
    /// Perplexity of the model as it came.
    pub perplexity_before: f64,
    /// Perplexities without training, in the order in which they are measured.
    pub baselines: Vec<f64>,
    /// Losses and gradients that were not finite so far.
    pub non_finite: NonFiniteCounts,
    /// What was kept for backward so far.
    pub saved_bytes: SavedBytes,
    /// Wall time of training so far.
    pub training_seconds: f64,
    /// Wall time of the run so far.
    pub seconds: f64,
}

/// The optimizer without its moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct OptimizerState {
    /// The settings.
    pub config: AdamWConfig,
    /// Updates made so far.
    pub step: u64,
}

/// What a walk over a model finds.
#[derive(Default)]
pub(super) struct Taken {
    /// They share the model's memory until they are written, one after the other.
    pub(super) parameters: Vec<TensorEntry<'static>>,
    pub(super) clusterings: BTreeMap<String, ClusteringState>,
}

/// Parameters and clusterings of a model.
pub(super) fn take<D: EdkmDevice>(model: &mut DynamicLlama<D>) -> Taken {
    let mut taken = Taken::default();
    match model.visit_parameters("", &mut taken) {
        Ok(()) => taken,
        Err(never) => match never {},
    }
}

impl<D: EdkmDevice> ParameterVisitor<D> for Taken {
    type Error = std::convert::Infallible;
    fn visit<S: Shape>(
        &mut self,
        name: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), Self::Error> {
        if let Some(state) = kind.clustering().and_then(|clustering| clustering.state()) {
            self.clusterings.insert(name.to_owned(), state);
        }
        let shape = parameter.shape().concrete();
        let parameter = parameter.clone();
        let make = move || Ok(parameter.as_vec());
        self.parameters
            .push(TensorEntry::later_values(name, shape, FloatDtype::F32, make));
        Ok(())
    }
}

/// Puts parameters and clusterings into a model that is clustered as the saved one was.
pub(super) fn put<D: EdkmDevice>(
    model: &mut DynamicLlama<D>,
    parameters: &Checkpoint,
    clusterings: &BTreeMap<String, ClusteringState>,
) -> Result<(), TrainError> {
    struct Put<'a>(&'a Checkpoint, &'a BTreeMap<String, ClusteringState>);
    impl<D: EdkmDevice> ParameterVisitor<D> for Put<'_> {
        type Error = TrainError;
        fn visit<S: Shape>(
            &mut self,
            name: &str,
            kind: ParameterKind<'_>,
            parameter: &mut Tensor<S, f32, D>,
        ) -> Result<(), TrainError> {
            let (device, shape) = (parameter.device().clone(), *parameter.shape());
            let numbers = self.0.read_f32(name, shape.concrete().as_ref())?;
            *parameter = device
                .tensor_from_host(numbers, shape)
                .map_err(|error| TrainError::Device {
                    reason: format!("{name}: {error}"),
                })?;
            if let (Some(clustering), Some(saved)) = (kind.clustering(), self.1.get(name)) {
                clustering.restore(saved.clone());
            }
            Ok(())
        }
    }
    model.visit_parameters("", &mut Put(parameters, clusterings))
}

/// A hash of all parameters and of what the configuration says of how they are used, to recognise the model when a run is resumed.
pub(crate) fn model_fingerprint<D: EdkmDevice>(model: &mut DynamicLlama<D>) -> u64 {
    let mut fingerprint = Fingerprint::new(&model.config);
    match model.visit_parameters("", &mut fingerprint) {
        Ok(()) => fingerprint.finish(),
        Err(never) => match never {},
    }
}

/// [`model_fingerprint`] in the making, of parameters that come in another order.
pub(crate) struct Fingerprint(xxhash_rust::xxh3::Xxh3);

impl Fingerprint {
    /// Of a model without parameters.
    pub(crate) fn new(config: &LlamaConfig) -> Self {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        let config = LlamaConfig {
            extra: Default::default(),
            ..config.clone()
        };
        hash.update(format!("{config:?}").as_bytes());
        Self(hash)
    }

    /// With one more parameter.
    pub(crate) fn add(&mut self, name: &str, numbers: &[f32]) {
        self.0.update(name.as_bytes());
        add_words(&mut self.0, numbers.iter().map(|number| number.to_le_bytes()));
    }

    /// The hash.
    pub(crate) fn finish(self) -> u64 {
        self.0.digest()
    }
}

impl<D: EdkmDevice> ParameterVisitor<D> for Fingerprint {
    type Error = std::convert::Infallible;
    fn visit<S: Shape>(
        &mut self,
        name: &str,
        _: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), Self::Error> {
        self.add(name, &parameter.as_vec());
        Ok(())
    }
}
