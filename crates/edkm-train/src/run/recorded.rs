//! What a run or a compression was made with, as it is kept beside its figures.

use std::path::Path;

use dfdx_edkm::optim::MomentFormat;
use dfdx_edkm::ChannelScale;
use edkm_cluster::{GradientMode, Initialization, KeepZero};
use edkm_llama::model::Recompute;
use serde::Serialize;

use super::{
    ClusterSettings, CompressSettings, DataSource, FinetuneSettings, FirstPalettes, KeptModel, LayerRules, Objective,
    OnNonFinite, RateUnit,
};
use crate::schedule::TemperatureUnit;
use crate::trainer::Update;

/// The settings of a [`FinetuneOutcome`](super::FinetuneOutcome), in the names of the program's options; what a run did not ask for is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRecord {
    /// The program's version.
    pub version: &'static str,
    /// The model's folder.
    pub model_dir: String,
    /// The text.
    pub data: TextRecord,
    /// What it was measured on.
    pub valid: TextRecord,
    /// What saw nothing of the text before it: `records`, `documents` or `nothing`.
    pub apart: &'static str,
    /// Tokens of that which were used, at most.
    pub eval_tokens: usize,
    /// Steps after which it was measured on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
    /// Whether the best model that was measured is written.
    pub keep_best: bool,
    /// Steps of training.
    pub steps: u64,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Sequences of a forward pass.
    pub batch: usize,
    /// Forward passes of a step.
    pub accumulate: usize,
    /// Seed of the data's order.
    pub seed: u64,
    /// Peak learning rate.
    pub lr: f64,
    /// What that is measured in for clustered matrices: `relative` or `absolute`.
    pub lr_unit: &'static str,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f32,
    /// `adamw` or `adamw-8bit`.
    pub optimizer: &'static str,
    /// Whether parameters are updated in backward.
    pub update_in_backward: bool,
    /// What is learned from a model besides the text; `null`: nothing.
    pub distill: Option<DistillRecord>,
    /// The model that is learned from, if it is not the model as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
    /// The clustering; `null`: there is none.
    pub clustering: Option<ClusterRecord>,
    /// The store of saved tensors.
    pub store: String,
    /// What is run again in backward: `nothing`, `attention` or `layers`.
    pub recompute: &'static str,
    /// What happens when a number is not finite: `stop`, `skip` or `rollback`.
    pub on_non_finite: &'static str,
}

/// A text of a [`RunRecord`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TextRecord {
    /// Files.
    Files(Vec<String>),
    /// Where else it is from.
    From(&'static str),
}

/// How much is learned from a model, from the first step that learns from it to the last.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DistillRecord {
    /// The share of the loss.
    pub share: [f64; 2],
    /// The weight of the distance of hidden states.
    pub hidden: [f64; 2],
    /// Nats a token at which both have faded; `null`: they stay.
    pub fade: Option<f32>,
}

/// The clustering of a [`RunRecord`] or a [`CompressRecord`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterRecord {
    /// Bits of an index, where neither a budget nor a rule has others.
    pub bits: u8,
    /// Bits a weight, for which the bits of each layer are chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_budget: Option<f64>,
    /// Output channels that share a palette; `null`: all.
    pub group: Option<usize>,
    /// Weights that share an index.
    pub vector: usize,
    /// Bits of the embeddings; `null`: they are as they were.
    pub embedding_bits: Option<u8>,
    /// Type of the palettes' numbers.
    pub palette_dtype: String,
    /// Whether rows are brought to one spread.
    pub per_channel_scale: bool,
    /// Whether zeros stay.
    pub keep_zero: bool,
    /// Rules for single layers, as TOML; of a run on a compressed model those that keep its palettes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<String>,
    /// How it is trained; `null` without training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<ClusterTrainingRecord>,
}

/// The part of a [`ClusterRecord`] that training alone has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterTrainingRecord {
    /// The first palettes: `kmeans`, `kmeans++`, `quantile`, `weighted`.
    pub init: &'static str,
    /// Repetitions of k-means in each step.
    pub iterations: usize,
    /// The part of the gap between centroids below which they end.
    pub tolerance: f64,
    /// `unrolled`, `implicit` or `straight-through`.
    pub gradient: &'static str,
    /// The temperature of the first step that clusters and of the last.
    pub temperature: [f64; 2],
    /// The part of the steps in which it falls, if that is not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_share: Option<f64>,
    /// What that is measured in: `relative` or `absolute`.
    pub temperature_unit: &'static str,
    /// The step at which clustering begins.
    pub cluster_from: u64,
}

/// The settings of a [`CompressOutcome`](super::CompressOutcome).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompressRecord {
    /// The program's version.
    pub version: &'static str,
    /// The model's folder.
    pub model_dir: String,
    /// How palettes are found.
    pub method: &'static str,
    /// The palettes.
    pub clustering: ClusterRecord,
    /// What was looked at; `null`: nothing.
    pub calibration: Option<CalibrationRecord>,
}

/// The text that a compression looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CalibrationRecord {
    /// The text.
    pub data: TextRecord,
    /// Tokens of a window.
    pub seq: usize,
    /// Windows.
    pub windows: usize,
    /// Seed of their choice.
    pub seed: u64,
}

/// A path as a record has it, which is text: what of it is not Unicode is replaced.
fn in_words(path: &Path) -> String {
    path.display().to_string()
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

impl RunRecord {
    /// That of a run.
    pub(super) fn of(settings: &FinetuneSettings) -> Self {
        Self {
            version: VERSION,
            model_dir: in_words(&settings.model_dir),
            data: TextRecord::of(&settings.data),
            valid: TextRecord::of(&settings.validation),
            apart: settings.apart.name(),
            eval_tokens: settings.evaluation_tokens,
            eval_every: settings.evaluate_every.map(Into::into),
            keep_best: settings.kept_model == KeptModel::Best,
            steps: settings.steps,
            seq: settings.sequence,
            batch: settings.batch,
            accumulate: settings.accumulate,
            seed: settings.seed,
            lr: settings.learning_rate,
            lr_unit: match settings.rate_unit {
                RateUnit::Relative => "relative",
                RateUnit::Absolute => "absolute",
            },
            weight_decay: settings.weight_decay,
            optimizer: match settings.moments {
                MomentFormat::F32 => "adamw",
                MomentFormat::EightBit => "adamw-8bit",
            },
            update_in_backward: settings.update == Update::InBackward,
            distill: match settings.objective {
                Objective::Text => None,
                Objective::Teacher(lesson) => Some(DistillRecord {
                    share: [lesson.share.from, lesson.share.to],
                    hidden: [lesson.hidden.from, lesson.hidden.to],
                    fade: lesson.fade.is_finite().then_some(lesson.fade),
                }),
            },
            teacher: settings.teacher_dir.as_deref().map(in_words),
            clustering: settings.clustering.as_ref().map(|clustering| ClusterRecord {
                training: Some(ClusterTrainingRecord::of(clustering, settings.steps)),
                ..ClusterRecord::of(clustering)
            }),
            store: settings.store.to_string(),
            recompute: match settings.recompute {
                Recompute::Nothing => "nothing",
                Recompute::Attention => "attention",
                Recompute::Layers => "layers",
            },
            on_non_finite: match settings.on_non_finite {
                OnNonFinite::Stop => "stop",
                OnNonFinite::Skip => "skip",
                OnNonFinite::Rollback => "rollback",
            },
        }
    }

    /// Name and value of each setting, for people. Rules for single layers are left out, and what they may have the last word on: what palettes come of them is
    /// said elsewhere.
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        const OF_PALETTES: [&str; 6] = [
            "bits",
            "group",
            "vector",
            "palette dtype",
            "per channel scale",
            "keep zero",
        ];
        let (has_rules, has_budget) = self.clustering.as_ref().map_or((false, false), |clustering| {
            (clustering.layers.is_some(), clustering.bits_budget.is_some())
        });
        let is_said = |(name, _): &(String, String)| match name.as_str() {
            "bits" if has_budget => false,
            name => !has_rules || !OF_PALETTES.contains(&name),
        };
        let mut rows = Vec::new();
        // by way of text, in which numbers of 32 bits have no more digits than they need
        let text = serde_json::to_string(self).unwrap_or_default();
        if let Ok(serde_json::Value::Object(settings)) = serde_json::from_str(&text) {
            add_rows(&mut rows, "", settings);
        }
        rows.retain(is_said);
        rows
    }
}

fn add_rows(rows: &mut Vec<(String, String)>, before: &str, settings: serde_json::Map<String, serde_json::Value>) {
    use serde_json::Value;
    let text_of = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for (name, value) in settings {
        let name = format!("{before}{}", name.replace('_', " "));
        match value {
            Value::Null => {}
            Value::Object(inner) if name == "clustering" || name == "training" => add_rows(rows, "", inner),
            Value::Object(inner) => add_rows(rows, &format!("{name}: "), inner),
            Value::String(_) if name == "layers" => {}
            Value::Array(values) => {
                let values: Vec<String> = values.iter().map(text_of).collect();
                rows.push((name, values.join(", ")));
            }
            Value::Bool(holds) => rows.push((name, if holds { "yes" } else { "no" }.to_owned())),
            other => rows.push((name, text_of(&other))),
        }
    }
}

impl TextRecord {
    fn of(source: &DataSource) -> Self {
        match source {
            DataSource::Files(paths) => Self::Files(paths.iter().map(|path| in_words(path)).collect()),
            DataSource::Text(_) => Self::From("a text in memory"),
            DataSource::HeldOut => Self::From("a tenth of the text, held out"),
        }
    }
}

impl ClusterRecord {
    fn of(clustering: &ClusterSettings) -> Self {
        Self {
            bits: clustering.bits.get(),
            bits_budget: clustering.bits_budget,
            group: clustering.group.map(Into::into),
            vector: clustering.vector.get(),
            embedding_bits: clustering.embedding_bits.map(|bits| bits.get()),
            palette_dtype: clustering.palette_dtype.to_string(),
            per_channel_scale: clustering.channel_scale != ChannelScale::None,
            keep_zero: clustering.keep_zero == KeepZero::Exact,
            layers: (clustering.rules != LayerRules::default()).then(|| clustering.rules.to_toml()),
            training: None,
        }
    }
}

impl ClusterTrainingRecord {
    fn of(clustering: &ClusterSettings, steps: u64) -> Self {
        let schedule = clustering.schedule();
        Self {
            init: match clustering.first_palettes {
                FirstPalettes::Weights(Initialization::KMeans) => "kmeans",
                FirstPalettes::Weights(Initialization::PlusPlus) => "kmeans++",
                FirstPalettes::Weights(Initialization::Quantile) => "quantile",
                FirstPalettes::SquaredGradients => "weighted",
            },
            iterations: clustering.iterations,
            tolerance: clustering.tolerance,
            gradient: match clustering.gradient {
                GradientMode::Unrolled => "unrolled",
                GradientMode::Implicit => "implicit",
                GradientMode::StraightThrough => "straight-through",
            },
            temperature: [clustering.from_step, steps].map(|step| schedule.at(step)),
            temperature_share: schedule.share().filter(|&share| share < 1.0),
            temperature_unit: match schedule.unit() {
                TemperatureUnit::Relative => "relative",
                TemperatureUnit::Absolute => "absolute",
            },
            cluster_from: clustering.from_step,
        }
    }
}

impl CompressRecord {
    /// That of a compression.
    pub(super) fn of(settings: &CompressSettings) -> Self {
        let calibration = settings.calibration.as_ref().filter(|_| settings.looks_at_text());
        Self {
            version: VERSION,
            model_dir: in_words(&settings.model_dir),
            method: settings.method.name(),
            clustering: ClusterRecord::of(&settings.clustering),
            calibration: calibration.map(|calibration| CalibrationRecord {
                data: TextRecord::of(&calibration.data),
                seq: calibration.sequence,
                windows: calibration.windows,
                seed: calibration.seed,
            }),
        }
    }
}
