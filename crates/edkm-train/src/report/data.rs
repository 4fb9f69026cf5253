//! What a report shows: plain figures, so that a run, a comparison and an inspection can all fill them in.

use crate::metrics::StepMetrics;

/// Everything on one page. A part that is empty or `None` is left out of the page.
#[derive(Clone, Debug, Default)]
pub struct ReportData {
    /// The heading: "stories260k, 3 bits".
    pub title: String,
    /// Settings and figures of the run that have no place of their own, each with its name.
    pub settings: Vec<(String, String)>,
    /// What the reader should know: steps that were skipped.
    pub notes: Vec<String>,
    /// Size of the model's file before and after.
    pub size: Option<BeforeAfter<u64>>,
    /// Perplexity on the validation text before and after.
    pub perplexity: Option<BeforeAfter<f64>>,
    /// Bits a weight of the compressed tensors, palettes counted.
    pub bits_per_weight: Option<f64>,
    /// The lines of `metrics.jsonl`.
    pub steps: Vec<StepMetrics>,
    /// The original, the baselines and the result, in the order of the table.
    pub comparison: Vec<Contender>,
    /// The weight matrices, in the order of the model.
    pub weights: Vec<WeightFigure>,
    /// What was saved for the backward pass.
    pub store: Option<StoreFigures>,
    /// Text from the models.
    pub samples: Vec<Sample>,
}

/// A figure of the original model and of the result.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BeforeAfter<T> {
    /// Of the original.
    pub before: T,
    /// Of the result.
    pub after: T,
}

/// One model of the comparison.
#[derive(Clone, Debug)]
pub struct Contender {
    /// "original", "k-means, 3 bits".
    pub name: String,
    /// What it is in the comparison.
    pub role: ContenderRole,
    /// Bits a weight of the compressed tensors, palettes counted.
    pub bits_per_weight: Option<f64>,
    /// Size of its file.
    pub size_bytes: Option<u64>,
    /// Perplexity on the validation text.
    pub perplexity: Option<f64>,
}

/// What a model is in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContenderRole {
    /// The model as it came.
    Original,
    /// Another way to the same bits.
    Baseline,
    /// What this run made.
    Result,
}

/// Bytes saved for the backward pass, at the peak.
#[derive(Clone, Debug, Default)]
pub struct StoreFigures {
    /// What plain DKM would have saved for the same layers; computed, not measured.
    pub plain_dkm_bytes: Option<u64>,
    /// What was saved before any layer of the store acted.
    pub logical_bytes: u64,
    /// The layers of the store in the order in which they act.
    pub layers: Vec<StoreLayerFigures>,
}

/// What one layer of the store did in a run.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct StoreLayerFigures {
    /// The layer.
    pub name: String,
    /// Bytes handed to it, at the peak.
    pub logical_bytes: u64,
    /// Bytes that it handed on or kept for them, at the peak.
    pub kept_bytes: u64,
    /// Tensors that were saved through it.
    pub saves: u64,
    /// Those of them for which it found a saving.
    pub hits: u64,
    /// Seconds of its own work in saving, summed over threads.
    pub pack_seconds: f64,
    /// Seconds of its own work in loading, summed over threads.
    pub unpack_seconds: f64,
}

impl StoreLayerFigures {
    /// The account of every layer of a store.
    pub fn of(report: &edkm_store::Report) -> Vec<Self> {
        let figures = |layer: &edkm_store::LayerReport| Self {
            name: layer.name.to_owned(),
            logical_bytes: layer.logical_peak_bytes,
            kept_bytes: layer.peak_bytes,
            saves: layer.saves,
            hits: layer.hits,
            pack_seconds: layer.pack_seconds,
            unpack_seconds: layer.unpack_seconds,
        };
        report.layers.iter().map(figures).collect()
    }
}

/// What several models write after the same prompt.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// Each model's name and its text.
    pub texts: Vec<(String, String)>,
}

/// One weight matrix: how its weights are spread and where the centroids lie.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightFigure {
    /// The tensor.
    pub name: String,
    /// Rows and columns.
    pub shape: Vec<usize>,
    /// How its weights are spread.
    pub histogram: Histogram,
    /// The centroids; empty for a tensor that is not clustered.
    pub centroids: Vec<Centroid>,
    /// Number of palettes that the centroids belong to.
    pub palettes: usize,
    /// Mean squared difference of weights and centroids; `None` where the weights themselves are not at hand.
    pub mean_squared_error: Option<f64>,
    /// Variance of the weights, to compare the error with.
    pub variance: f64,
}

/// One centroid (of a vector palette: one of its numbers).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Centroid {
    /// Its value.
    pub value: f32,
    /// The part of the weights that it stands for, from 0 to 1.
    pub share: f64,
}

/// Counts of values in bins of equal width.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Smallest finite value: the left end of the first bin.
    pub low: f32,
    /// Largest finite value: the right end of the last bin.
    pub high: f32,
    /// Values in each bin.
    pub counts: Vec<u64>,
}
