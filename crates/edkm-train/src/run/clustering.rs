//! How a run clusters: which parameters, how many bits, at which temperature.

use std::num::NonZeroUsize;

use dfdx_edkm::ChannelScale;
use edkm_cluster::{Bits, GradientMode, Grouping, KeepZero, Spec, Temperature, VectorLen};
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
    /// Consecutive weights of a row that one index stands for: an index then takes `bits / vector` bits a weight.
    pub vector: VectorLen,
    /// Repetitions of assignment and update in a step.
    pub iterations: usize,
    /// Repetitions end when no centroid moves by more than this part of the gap between centroids.
    pub tolerance: f64,
    /// Whether weights that are exactly zero stay so.
    pub keep_zero: KeepZero,
    /// How clustered weights follow weights.
    pub gradient: GradientMode,
    /// The temperature of each step.
    pub temperature: TemperatureSchedule,
    /// The step at which clustering begins; before it the model is trained as it is.
    pub from_step: u64,
    /// Whether the rows of a matrix are brought to one spread first, for 32 more bits a row.
    pub channel_scale: ChannelScale,
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
            vector: VectorLen::One,
            iterations: 3,
            tolerance: 0.0,
            keep_zero: KeepZero::Free,
            gradient: GradientMode::Unrolled,
            temperature: TemperatureSchedule::annealed(steps),
            from_step: 0,
            channel_scale: ChannelScale::None,
            palette_dtype: PaletteDType::F32,
        }
    }

    /// The peak learning rate that is right for most runs: the fewer bits, the larger the step that takes a weight to another cluster.
    pub fn learning_rate(&self) -> f64 {
        match f64::from(self.bits.get()) / self.vector.get() as f64 {
            ..=2.0 => 3e-3,
            ..=3.0 => 2e-3,
            _ => 1e-3,
        }
    }

    /// The temperature of a step, for a clustering.
    pub fn temperature_at(&self, step: u64) -> Temperature {
        match self.temperature.unit() {
            TemperatureUnit::Absolute => Temperature::Absolute(self.temperature.at(step)),
            TemperatureUnit::Relative => Temperature::Relative(self.temperature.at(step)),
        }
    }

    /// The settings of a parameter of so many bits.
    fn spec_of(&self, bits: Bits) -> Spec {
        let grouping = self.group.map_or(Grouping::PerTensor, Grouping::PerChannels);
        Spec::new(bits)
            .with_grouping(grouping)
            .with_vector(self.vector)
            .with_iterations(self.iterations)
            .with_tolerance(self.tolerance)
            .with_keep_zero(self.keep_zero)
            .with_gradient(self.gradient)
            .with_temperature(self.temperature_at(self.from_step))
    }
}

impl ClusterPlan for ClusterSettings {
    fn spec(&self, parameter: &Parameter) -> Option<Spec> {
        let bits = match parameter.role {
            Role::Linear => self.bits,
            Role::Embedding | Role::Head => self.embedding_bits?,
            Role::Bias | Role::Norm => return None,
        };
        Some(self.spec_of(bits))
    }

    fn channel_scale(&self, _: &Parameter) -> ChannelScale {
        self.channel_scale
    }
}
