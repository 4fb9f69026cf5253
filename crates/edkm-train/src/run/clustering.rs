//! How a run clusters: which parameters, how many bits, at which temperature.

use std::fmt::Debug;
use std::num::NonZeroUsize;

use dfdx_edkm::ChannelScale;
use edkm_cluster::{Bits, GradientMode, Grouping, KeepZero, Spec, Temperature, VectorLen};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::ClusterPlan;
use edkm_llama::names::{parameters, Parameter, Role};
use edkm_palette::PaletteDType;

use super::layers::dtype_of_groups;
use super::{FirstPalettes, LayerRule, LayerRules};
use crate::schedule::{TemperatureSchedule, TemperatureUnit};
use crate::TrainError;

/// The clustering of a run: every linear layer inside the decoder, and the embeddings if they are given bits.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSettings {
    /// Bits of the linear layers inside the decoder.
    pub bits: Bits,
    /// Output channels that share a palette; `None`: all of a tensor. Where palettes are many their type counts: [`with_palette_dtype`](Self::with_palette_dtype).
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
    /// The temperature of each step, for a run of as many steps; it falls from `from_step` on.
    pub temperature: TemperatureSchedule,
    /// How the first step that is clustered finds its palettes.
    pub first_palettes: FirstPalettes,
    /// What the k-means++ is drawn with by which palettes of vectors begin; those of scalars are not drawn.
    pub seed: u64,
    /// The step at which clustering begins; before it the model is trained as it is, on the text, and what it is then is what it learns from afterwards, if it
    /// learns from a model.
    pub from_step: u64,
    /// Whether the rows of a matrix are brought to one spread first, for 16 more bits a row.
    pub channel_scale: ChannelScale,
    /// How palettes are stored.
    pub palette_dtype: PaletteDType,
    /// Bits a weight over all that is clustered, palettes counted: the bits of each layer are then chosen (see [`super::choose_bits`]), and `bits` is not
    /// used. `None`: `bits` it is.
    pub bits_budget: Option<f64>,
    /// What single layers have in place of the settings above.
    pub rules: LayerRules,
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
            temperature: Self::usual_temperature(bits.get().into(), steps, None),
            first_palettes: FirstPalettes::default(),
            seed: 0,
            from_step: 0,
            channel_scale: ChannelScale::None,
            palette_dtype: PaletteDType::F32,
            bits_budget: None,
            rules: LayerRules::default(),
        }
    }

    /// What determines a clustering, by name.
    pub(super) fn determining(&self) -> Vec<(String, String)> {
        let Self {
            bits,
            group,
            embedding_bits,
            vector,
            iterations,
            tolerance,
            keep_zero,
            gradient,
            temperature,
            first_palettes,
            seed,
            from_step,
            channel_scale,
            palette_dtype,
            bits_budget,
            rules,
        } = self;
        let rules = rules.to_toml();
        let settings: [(&str, &dyn Debug); 16] = [
            ("bits", bits),
            ("group", group),
            ("embedding_bits", embedding_bits),
            ("vector", vector),
            ("iterations", iterations),
            ("tolerance", tolerance),
            ("keep_zero", keep_zero),
            ("gradient", gradient),
            ("temperature", temperature),
            ("first_palettes", first_palettes),
            ("seed", seed),
            ("from_step", from_step),
            ("channel_scale", channel_scale),
            ("palette_dtype", palette_dtype),
            ("bits_budget", bits_budget),
            ("rules", &rules),
        ];
        let named = settings.into_iter();
        named
            .map(|(name, value)| (format!("clustering.{name}"), format!("{value:?}")))
            .collect()
    }

    /// Bits that indices take of a weight of the linear layers of a model that are clustered; the budget, if there is one.
    pub fn bits_a_weight(&self, config: &LlamaConfig) -> f64 {
        if self.bits_budget.is_some() || self.rules.0.is_empty() {
            return self.bits_without_rules();
        }
        let linear = parameters(config).filter(|parameter| parameter.role == Role::Linear);
        let (mut bits, mut weights) = (0.0, 0.0);
        for parameter in linear {
            if let Some(spec) = self.spec(&parameter) {
                let numbers = parameter.shape.iter().product::<usize>() as f64;
                bits += numbers * f64::from(spec.bits.get()) / spec.dim() as f64;
                weights += numbers;
            }
        }
        match weights > 0.0 {
            true => bits / weights,
            false => self.bits_without_rules(),
        }
    }

    fn bits_without_rules(&self) -> f64 {
        let by_index = f64::from(self.bits.get()) / self.vector.get() as f64;
        self.bits_budget.unwrap_or(by_index)
    }

    /// The peak learning rate that is right for most runs, as far as it is known without a model what the rules for single layers make of them: with rules
    /// [`learning_rate_for`](Self::learning_rate_for) the [bits of a weight](Self::bits_a_weight) is.
    pub fn learning_rate(&self) -> f64 {
        Self::learning_rate_for(self.bits_without_rules())
    }

    /// The peak learning rate that is right for most runs with so many bits a weight: the fewer bits, the larger the step that takes a weight to another
    /// cluster.
    pub fn learning_rate_for(bits_a_weight: f64) -> f64 {
        match bits_a_weight {
            ..=2.0 => 4.5e-3,
            ..=3.0 => 3e-3,
            ..=4.0 => 2e-3,
            _ => 1e-3,
        }
    }

    /// The temperature that is right for most runs of so many bits a weight and steps, with that peak learning rate in place of the usual one.
    pub fn usual_temperature(bits_a_weight: f64, steps: u64, learning_rate: Option<f64>) -> TemperatureSchedule {
        let usual = Self::learning_rate_for(bits_a_weight);
        let rate = learning_rate.map_or(1.0, |rate| rate / usual);
        TemperatureSchedule::annealed(bits_a_weight, steps, rate)
    }

    /// The bits of a result of so many a weight, as they are called: as they were asked for, or, where they differ from layer to layer or an index stands for
    /// several weights, what a weight takes with palettes counted.
    pub fn bits_in_words(&self, bits_per_weight: f64) -> String {
        let by_layer = self.bits_budget.is_some() || !self.rules.0.is_empty();
        match by_layer || self.vector.get() > 1 {
            true => format!("{bits_per_weight:.2}"),
            false => self.bits.to_string(),
        }
    }

    /// These settings with palettes stored as that type; `None`: where channels are grouped as bytes up to 4 bits, and as f16 with more, whose centroids are nearer to each other
    /// than bytes tell apart; as f16 where a budget pays for palettes; as f32 elsewhere. Rules that group channels and name no type have that of groups, too.
    pub fn with_palette_dtype(self, dtype: Option<PaletteDType>) -> Self {
        match dtype {
            Some(palette_dtype) => Self { palette_dtype, ..self },
            None => Self {
                palette_dtype: match (self.group, self.bits_budget) {
                    (_, Some(_)) => PaletteDType::F16,
                    (Some(_), None) => dtype_of_groups(Some(self.bits)),
                    (None, None) => PaletteDType::F32,
                },
                rules: self.rules.with_dtypes_of_groups(),
                ..self
            },
        }
    }

    /// The temperature of every step that clusters: that of the settings, from the step on at which the clustering begins.
    pub fn schedule(&self) -> TemperatureSchedule {
        self.temperature.starting_at(self.from_step)
    }

    /// The temperature of a step, for a clustering.
    pub fn temperature_at(&self, step: u64) -> Temperature {
        let schedule = self.schedule();
        match schedule.unit() {
            TemperatureUnit::Absolute => Temperature::Absolute(schedule.at(step)),
            TemperatureUnit::Relative => Temperature::Relative(schedule.at(step)),
        }
    }

    /// Checks what does not depend on a matrix, at the first step that clusters and at the last of `steps`.
    ///
    /// # Errors
    /// A number of repetitions, a tolerance or a temperature that cannot be used.
    pub(super) fn check(&self, steps: u64) -> Result<(), TrainError> {
        let last = Spec {
            temperature: self.temperature_at(steps),
            ..self.spec_of(self.bits)
        };
        [self.spec_of(self.bits), last]
            .iter()
            .try_for_each(Spec::check)
            .map_err(|source| TrainError::Clustering { source })
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
            .with_seed(self.seed)
            .with_temperature(self.temperature_at(self.from_step))
    }
}

impl ClusterSettings {
    /// Whether `bits` are those of some matrix: rules for single layers, or a budget, may give others to all.
    pub fn uses_bits(&self, config: &LlamaConfig) -> bool {
        let linear = parameters(config).filter(|parameter| parameter.role == Role::Linear);
        let mut clustered = linear.filter(|parameter| self.spec(parameter).is_some());
        self.bits_budget.is_none() && clustered.any(|parameter| !self.rules.sets_bits_of(&parameter.name))
    }

    /// How the palettes of a parameter are stored.
    pub fn palette_dtype_of(&self, name: &str) -> PaletteDType {
        let last = self.rules.of(name).filter_map(|rule| rule.palette_dtype).last();
        last.unwrap_or(self.palette_dtype)
    }
}

impl ClusterSettings {
    /// Rules that say of every parameter what these settings say of its palettes: what holds for all first, then bits by role, then the rules.
    pub(super) fn as_rules(&self, config: &LlamaConfig) -> LayerRules {
        let for_all = LayerRule {
            pattern: "*".to_owned(),
            group: self.group.map(Grouping::PerChannels),
            vector: (self.vector.get() > 1).then_some(self.vector),
            palette_dtype: (self.group.is_some() || self.palette_dtype != PaletteDType::F32)
                .then_some(self.palette_dtype),
            keep_zero: (self.keep_zero == KeepZero::Exact).then_some(true),
            per_channel_scale: (self.channel_scale != ChannelScale::None).then_some(true),
            ..LayerRule::default()
        };
        let says_nothing = LayerRule {
            pattern: for_all.pattern.clone(),
            ..LayerRule::default()
        };
        let mut rules = Vec::from_iter((for_all != says_nothing).then_some(for_all));
        if self.uses_bits(config) {
            rules.push(LayerRule::bits_of("model.layers.*", self.bits));
        }
        let embeddings = parameters(config).filter(|p| matches!(p.role, Role::Embedding | Role::Head));
        rules.extend(embeddings.filter_map(|p| Some(LayerRule::bits_of(&p.name, self.embedding_bits?))));
        rules.extend(self.rules.0.iter().cloned());
        // a rule with a group and without a type means, read again without --palette-dtype, that of groups
        let read_again = LayerRules(rules.clone()).with_dtypes_of_groups();
        rules.extend(parameters(config).filter_map(|parameter| {
            let meant = self.palette_dtype_of(&parameter.name);
            let dtype = read_again
                .of(&parameter.name)
                .filter_map(|rule| rule.palette_dtype)
                .last();
            let differs = self.spec(&parameter).is_some() && dtype.unwrap_or(PaletteDType::F32) != meant;
            differs.then(|| LayerRule {
                pattern: parameter.name,
                palette_dtype: Some(meant),
                ..LayerRule::default()
            })
        }));
        LayerRules(rules)
    }
}

impl ClusterPlan for ClusterSettings {
    fn spec(&self, parameter: &Parameter) -> Option<Spec> {
        let mut bits = match parameter.role {
            Role::Linear => Some(self.bits),
            Role::Embedding | Role::Head => self.embedding_bits,
            Role::Bias | Role::Norm => return None,
        };
        let mut spec = self.spec_of(self.bits);
        let (mut skip, mut min_size) = (false, 0);
        for rule in self.rules.of(&parameter.name) {
            bits = rule.bits.or(bits);
            skip = rule.skip.unwrap_or(skip);
            min_size = rule.min_size.unwrap_or(min_size);
            spec.grouping = rule.group.unwrap_or(spec.grouping);
            spec.vector = rule.vector.unwrap_or(spec.vector);
            spec.keep_zero = rule.zeros().unwrap_or(spec.keep_zero);
        }
        let size: usize = parameter.shape.iter().product();
        let bits = bits.filter(|_| !skip && size >= min_size)?;
        Some(Spec { bits, ..spec })
    }

    fn channel_scale(&self, parameter: &Parameter) -> ChannelScale {
        let last = self
            .rules
            .of(&parameter.name)
            .filter_map(LayerRule::channel_scale)
            .last();
        last.unwrap_or(self.channel_scale)
    }
}
