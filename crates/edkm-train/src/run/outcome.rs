//! What a run came to.

use std::path::PathBuf;

use edkm_llama::model::PalettizedParameter;
use serde::Serialize;

use super::{BitsChoice, NonFiniteCounts, RunRecord, TrainingText};
use crate::compress::Method;
use crate::report::{Sample, StoreLayerFigures};

/// The figures of a run. Serialized, it is the object that the program prints with `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct FinetuneOutcome {
    /// Perplexity of the model as it came.
    pub perplexity_before: f64,
    /// Perplexity of the model as it was written: hard-assigned palettes.
    pub perplexity_after: f64,
    /// That of the model of the last step, where another one is [kept](super::KeptModel::Best): else the same.
    pub perplexity_last: f64,
    /// Steps that made the model that was written.
    pub kept_steps: u64,
    /// Bits a weight of the compressed tensors, palettes counted; `null` without clustering.
    pub bits_per_weight: Option<f64>,
    /// Bytes of the written model.safetensors.
    pub size_bytes: u64,
    /// Bytes of the model's files as they came.
    pub size_before_bytes: u64,
    /// Steps of training.
    pub steps: u64,
    /// Steps that it was to have: more, where it was [ended](super::checkpoint::Start::Finish) before.
    pub planned_steps: u64,
    /// Losses and gradients that were not finite.
    pub non_finite: NonFiniteCounts,
    /// Tokens the model has read in training.
    pub tokens: u64,
    /// The text that it has read them from.
    pub training_text: TrainingText,
    /// Wall time of the whole run.
    pub seconds: f64,
    /// Wall time of training alone, measurements on its way among it, and of choosing the bits of each layer for a budget.
    pub training_seconds: f64,
    /// The most memory that the process has held; `null` where the system does not tell.
    pub peak_rss_bytes: Option<u64>,
    /// The most bytes that the store has kept for backward at once.
    pub saved_bytes_peak: u64,
    /// Bytes of the tensors that the ops saved at once at the peak, before any layer of the store acted.
    pub saved_bytes_logical: u64,
    /// The most bytes of saved tensors that stayed in the memory of the device, beside the store's.
    pub saved_bytes_device: u64,
    /// The most bytes that the store has kept on disk at once.
    pub saved_bytes_disk: u64,
    /// What each layer of the store did, in the order in which they act; of a run that was resumed, since then.
    pub store_layers: Vec<StoreLayerFigures>,
    /// What the clusterings of a step keep for backward.
    pub saved_bytes_clustering: u64,
    /// What plain DKM would keep for backward for the clusterings alone: one attention map a repetition, 4 bytes an entry.
    pub saved_bytes_plain_dkm: u64,
    /// The bits of each layer, if they were chosen for a budget.
    pub bits_chosen: Vec<BitsChoice>,
    /// Compression without training, if it was measured.
    pub baselines: Vec<Baseline>,
    /// What it was made with.
    pub settings: RunRecord,
    /// What both models write after the beginning of the validation text.
    pub sample: Sample,
    /// The folder.
    #[serde(serialize_with = "crate::files::in_words")]
    pub out: PathBuf,
}

/// Compression of the same model to the same bits without training.
#[derive(Debug, Clone, Serialize)]
pub struct Baseline {
    /// `rtn` or `kmeans`.
    pub method: &'static str,
    /// Perplexity on the same text.
    pub perplexity: f64,
}

impl Baseline {
    pub(super) fn new(method: Method, perplexity: f64) -> Self {
        Self {
            method: method.name(),
            perplexity,
        }
    }
}

/// Bits and weights of compressed tensors.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sizes {
    /// Bits, palettes counted.
    pub bits: f64,
    /// Weights.
    pub weights: f64,
}

impl Sizes {
    /// Those of palettized parameters.
    pub(crate) fn of(palettes: &[PalettizedParameter]) -> Self {
        palettes.iter().fold(Self::default(), |sum, parameter| {
            let weights = (parameter.matrix.rows() * parameter.matrix.cols()) as f64;
            Self {
                bits: sum.bits + weights * parameter.matrix.bits_per_weight(),
                weights: sum.weights + weights,
            }
        })
    }

    /// Bits a weight, if there is any weight.
    pub fn bits_per_weight(self) -> Option<f64> {
        (self.weights > 0.0).then(|| self.bits / self.weights)
    }
}
