//! How a run clusters: which parameters, how many bits, at which temperature.

use std::num::NonZeroUsize;

use edkm_cluster::{Bits, Grouping, Spec, Temperature};
use edkm_llama::model::ClusterPlan;
use edkm_llama::names::{Parameter, Role};
use edkm_palette::PaletteDType;

use crate::schedule::{TemperatureSchedule, TemperatureUnit};

/// The clustering of a run: every linear layer inside the decoder, and the embeddings if they are given bits.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSettings {
    /// Bits of the linear layers inside the decoder.
    pub bits: Bits,
    /// Output channels that share a palette; `None`: all of a tensor.
    pub group: Option<NonZeroUsize>,
    /// Bits of the embedding and the output projection; `None` leaves them as they are.
    pub embedding_bits: Option<Bits>,
    /// Repetitions of assignment and update in a step.
    pub iterations: usize,
    /// The temperature of each step.
    pub temperature: TemperatureSchedule,
    /// How palettes are stored.
    pub palette_dtype: PaletteDType,
}

impl ClusterSettings {
    /// What is right for most runs of `steps` steps: see the record of experiments.
    pub fn new(bits: Bits, steps: u64) -> Self {
        Self {
            bits,
            group: None,
            embedding_bits: None,
            iterations: 3,
            temperature: TemperatureSchedule::annealed(steps),
            palette_dtype: PaletteDType::F32,
        }
    }

    /// The temperature of a step, for a clustering.
    pub fn temperature_at(&self, step: u64) -> Temperature {
        match self.temperature.unit() {
            TemperatureUnit::Absolute => Temperature::Absolute(self.temperature.at(step)),
            TemperatureUnit::Relative => Temperature::Relative(self.temperature.at(step)),
        }
    }
}

impl ClusterPlan for ClusterSettings {
    fn spec(&self, parameter: &Parameter) -> Option<Spec> {
        let bits = match parameter.role {
            Role::Linear => self.bits,
            Role::Embedding | Role::Head => self.embedding_bits?,
            Role::Bias | Role::Norm => return None,
        };
        let grouping = self.group.map_or(Grouping::PerTensor, Grouping::PerChannels);
        let spec = Spec::new(bits).with_grouping(grouping).with_iterations(self.iterations);
        Some(spec.with_temperature(self.temperature_at(0)))
    }
}
