//! All that determines a run.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::num::NonZeroU64;
use std::path::PathBuf;

use dfdx_edkm::optim::MomentFormat;
use edkm_cluster::KeepZero;
use edkm_llama::checkpoint::Overwrite;
use edkm_llama::model::Recompute;
use edkm_store::StoreSpec;

use super::checkpoint::CheckpointSettings;
use super::{ClusterSettings, OnNonFinite, RateUnit};
use crate::data::Apart;
use crate::device_share::DeviceShare;
use crate::lesson::{Lesson, Ramp};
use crate::trainer::Update;

/// Where text comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum DataSource {
    /// Data files, in order; a folder stands for those in it ([`data_files`](crate::data::data_files)).
    Files(Vec<PathBuf>),
    /// Text in memory.
    Text(String),
    /// For validation alone: the last part of the training text, which is then not trained on.
    HeldOut,
}

/// Whether something is measured that takes time and is not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// Which model of a run is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeptModel {
    /// That of the last step.
    #[default]
    Last,
    /// That with the lowest perplexity of those that were [measured](FinetuneSettings::evaluate_every), the last one among them: for texts that are read so
    /// often that the model learns them by heart.
    Best,
}

/// What a model learns.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Objective {
    /// The text.
    #[default]
    Text,
    /// What the model said of the text before it was clustered, and the text; the text alone in steps before the clustering begins. Or what another model
    /// says of it ([`FinetuneSettings::teacher_dir`]).
    Teacher(Lesson),
}

impl Objective {
    /// The model's predictions at first, the text at last, and the hidden states of each layer besides, less and less, as far as it is worth
    /// following: what experiments found best.
    pub const LESSON: Lesson = Lesson {
        share: Ramp { from: 1.0, to: 0.0 },
        hidden: Ramp { from: 5.0, to: 1.5 },
        fade: 0.1,
    };

    /// [`Self::LESSON`] from the model as it came.
    pub const BEST: Self = Self::Teacher(Self::LESSON);
}

/// All that determines a run. [`FinetuneSettings::new`] has what is right for most; what differs is said in front of it:
///
/// ```no_run
/// use dfdx::prelude::Cpu;
/// use edkm_cluster::Bits;
/// use edkm_llama::checkpoint::Overwrite;
/// use edkm_train::run::{finetune, ClusterSettings, DataSource, FinetuneSettings, Silent};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let clustering = ClusterSettings::new(Bits::new(3)?, 400);
/// let data = DataSource::Files(vec!["train.txt".into()]);
/// let settings = FinetuneSettings {
///     validation: DataSource::Files(vec!["valid.txt".into()]),
///     overwrite: Overwrite::Replace,
///     ..FinetuneSettings::new("model", data, Some(clustering), 400, "small")
/// };
/// let outcome = finetune(&settings, &Cpu::default(), &mut Silent)?;
/// println!("perplexity {} -> {}", outcome.perplexity_before, outcome.perplexity_after);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FinetuneSettings {
    /// The model's folder.
    pub model_dir: PathBuf,
    /// What it is trained on.
    pub data: DataSource,
    /// What it is measured on.
    pub validation: DataSource,
    /// What of both does not see the text before it in the same window.
    pub apart: Apart,
    /// Tokens of the validation text that are used.
    pub evaluation_tokens: usize,
    /// Steps after which the perplexity of what is reached is measured, again and again; `None`: only that of the result.
    pub evaluate_every: Option<NonZeroU64>,
    /// Which model is written.
    pub kept_model: KeptModel,
    /// How it is clustered; `None` trains it as it is.
    pub clustering: Option<ClusterSettings>,
    /// What the model learns.
    pub objective: Objective,
    /// The folder of the model that it learns from, at all steps, if that is not the model as it came: one of the same vocabulary.
    pub teacher_dir: Option<PathBuf>,
    /// Steps of training.
    pub steps: u64,
    /// Peak learning rate. With one below the usual, palettes are better found with a harder beginning: [`ClusterSettings::usual_temperature`].
    pub learning_rate: f64,
    /// What it is measured in for clustered matrices.
    pub rate_unit: RateUnit,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f32,
    /// How the optimizer keeps its moments.
    pub moments: MomentFormat,
    /// When parameters are updated.
    pub update: Update,
    /// Tokens of a sequence.
    pub sequence: usize,
    /// Sequences of a forward pass.
    pub batch: usize,
    /// Forward passes of a step.
    pub accumulate: usize,
    /// Seed of the data's order.
    pub seed: u64,
    /// Where saved tensors go.
    pub store: StoreSpec,
    /// How much of them stays in the memory of the device.
    pub device_share: DeviceShare,
    /// What layers save.
    pub recompute: Recompute,
    /// Whether compression without training is measured too.
    pub baselines: Measure,
    /// The folder to write.
    pub out: PathBuf,
    /// What happens to one that is there.
    pub overwrite: Overwrite,
    /// What happens when a loss or a gradient is not finite.
    pub on_non_finite: OnNonFinite,
    /// When the run writes checkpoints, and whether it goes on from one.
    pub checkpoints: CheckpointSettings,
    /// What happens when there seems to be too little memory or disk.
    pub on_limits: OnLimits,
}

impl FinetuneSettings {
    /// A run of `steps` steps of 8 x 256 tokens that clusters as `clustering` says, at the [learning rate](ClusterSettings::learning_rate) that is right for
    /// that, and learns from the text and from the model as it came; without clustering it learns the text alone, at 1e-3. It is measured on the last part of the text. The program's defaults.
    pub fn new(
        model_dir: impl Into<PathBuf>,
        data: DataSource,
        clustering: Option<ClusterSettings>,
        steps: u64,
        out: impl Into<PathBuf>,
    ) -> Self {
        Self {
            model_dir: model_dir.into(),
            data,
            validation: DataSource::HeldOut,
            apart: Apart::default(),
            evaluation_tokens: 40_000,
            evaluate_every: None,
            kept_model: KeptModel::Last,
            objective: match clustering {
                Some(_) => Objective::BEST,
                None => Objective::Text,
            },
            teacher_dir: None,
            learning_rate: clustering.as_ref().map_or(1e-3, ClusterSettings::learning_rate),
            clustering,
            steps,
            rate_unit: RateUnit::Relative,
            weight_decay: 0.0,
            moments: MomentFormat::F32,
            update: Update::AfterBackward,
            sequence: 256,
            batch: 8,
            accumulate: 1,
            seed: 0,
            store: StoreSpec::default(),
            device_share: DeviceShare::default(),
            recompute: Recompute::Nothing,
            baselines: Measure::No,
            out: out.into(),
            overwrite: Overwrite::Refuse,
            on_non_finite: OnNonFinite::Stop,
            checkpoints: CheckpointSettings::default(),
            on_limits: OnLimits::Refuse,
        }
    }
}

impl FinetuneSettings {
    /// What determines the numbers of a run, by name, but for the model and the text, which have fingerprints, and the device. What is done about numbers that
    /// are not finite is no part of it: it determines steps to come alone.
    pub(super) fn determining(&self) -> BTreeMap<String, String> {
        let is_lossy = self.store.is_lossy();
        let kept_model = match self.kept_model {
            KeptModel::Last => (KeptModel::Last, None),
            KeptModel::Best => (KeptModel::Best, self.evaluate_every),
        };
        let has_teacher = self.teacher_dir.is_some();
        let settings: [(&str, &dyn Debug); 18] = [
            ("version of the program", &env!("CARGO_PKG_VERSION")),
            ("apart", &self.apart),
            ("evaluation_tokens", &self.evaluation_tokens),
            ("kept_model", &kept_model),
            ("clustering", &self.clustering.is_some()),
            ("store that is lossy", &is_lossy),
            ("objective", &self.objective),
            ("another model to learn from", &has_teacher),
            ("steps", &self.steps),
            ("learning_rate", &self.learning_rate),
            ("rate_unit", &self.rate_unit),
            ("weight_decay", &self.weight_decay),
            ("moments", &self.moments),
            ("update", &self.update),
            ("sequence", &self.sequence),
            ("batch", &self.batch),
            ("accumulate", &self.accumulate),
            ("seed", &self.seed),
        ];
        let mut settings: BTreeMap<String, String> = settings
            .into_iter()
            .map(|(name, value)| (name.to_owned(), format!("{value:?}")))
            .collect();
        settings.extend(self.clustering.iter().flat_map(ClusterSettings::determining));
        settings
    }

    /// Whether a run of this model could begin to cluster at another step than the first.
    pub fn may_cluster_from(&self, step: u64) -> bool {
        let keeps_zeros = |clustering: &ClusterSettings| {
            let of_rules = clustering.rules.0.iter().any(|rule| rule.keep_zero == Some(true));
            clustering.keep_zero == KeepZero::Exact || of_rules
        };
        (1..self.steps).contains(&step) && !self.clustering.as_ref().is_none_or(keeps_zeros)
    }

    /// The first step that learns from a teacher, if one does: that at which the clustering begins, where the teacher is the model as it is then, else 0.
    pub fn taught_from(&self) -> Option<u64> {
        match self.objective {
            Objective::Text => None,
            Objective::Teacher(_) if self.teacher_dir.is_some() => Some(0),
            Objective::Teacher(_) => Some(self.clustering.as_ref().map_or(0, |clustering| clustering.from_step)),
        }
    }
}

/// What happens when a run is estimated to need more memory or disk than there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnLimits {
    /// It is refused.
    #[default]
    Refuse,
    /// It begins all the same.
    Ignore,
}
