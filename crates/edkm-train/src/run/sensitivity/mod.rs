//! What each width costs each layer.
//!
//! First an estimate: the squared error of the layer's palettized weights, each weighted by half the mean square of the loss's gradient, which is the
//! loss that it adds to second order (as HAWQ, arXiv 1911.03852, and SqueezeLLM, arXiv 2306.07629, have it). Alone, that misses how errors of
//! layers work on each other: together they cost more than their sum, and those of the first layers most. So all layers are palettized at one width, the
//! largest that fits the budget everywhere, and one layer after the other is moved a bit down and a bit up from there: what the loss does then is what
//! bits are worth where they are spent. The estimate gives the shape of the curve for the widths beyond.

mod layer;
mod moves;
mod prefix;
mod widths;

use dfdx_edkm::{EdkmDevice, Parameters};
use edkm_cluster::Bits;
use edkm_llama::model::DynamicLlama;

use self::layer::{Layer, MeasureWidths};
use self::moves::{measure_moves, set_weight};
use self::prefix::Prefix;
use super::{ClusterSettings, OnProgress};
use crate::compress::{importance, Calibration};
use crate::data::windows::Batch;
use crate::TrainError;

pub(super) use self::widths::{Candidate, Width};

/// Tokens on which moves are measured: two passes a layer, from its place in the model on. Before and after a move the text is the same, so that
/// little of it tells.
const TOKENS_OF_MOVES: usize = 16_384;

/// Batches that they are measured in, at least, so that their differences tell how certain the mean is.
const BATCHES_OF_MOVES: usize = 16;

/// The windows on which moves are measured, of so many windows of a calibration text.
pub(super) fn windows_of_moves(sequence: usize, windows: usize) -> usize {
    (TOKENS_OF_MOVES / sequence.max(1)).clamp(1, windows.max(1))
}

/// What each width costs each clustered layer of `model`, in the order of the model. Layers whose bits a rule has set, and embeddings, have one width.
/// `progress` is told the share that is done.
///
/// Memory: 12 bytes a clustered weight and the hidden states of the text of the moves (4 bytes x tokens x hidden size), and before that what [`importance`] takes.
///
/// # Errors
/// Those of [`importance`] and of clustering, what `progress` gives.
pub(super) fn sensitivities<D: EdkmDevice>(
    model: &DynamicLlama<D>,
    clustering: &ClusterSettings,
    budget: f64,
    calibration: &Calibration<'_>,
    progress: &mut OnProgress<'_>,
) -> Result<Sensitivities<D>, TrainError> {
    let importances = importance(model, calibration, &mut |share| progress(0.3 * share))?;
    let mut model = model.clone();
    model.set_clustering(clustering);
    let mut measure = MeasureWidths {
        clustering,
        importances,
        layers: edkm_llama::names::parameters(&model.config).count(),
        done: 0,
        progress: &mut |share| progress(0.3 + 0.3 * share),
        found: Vec::new(),
    };
    model.visit_parameters("", &mut measure)?;
    // what is left of the importances goes with the rest
    let MeasureWidths { found: mut layers, .. } = measure;
    let batches = Calibration {
        windows: windows_of_moves(calibration.sequence, calibration.windows),
        ..*calibration
    }
    .at_least(BATCHES_OF_MOVES)?;
    let everywhere = operating_point(&layers, budget);
    model.set_clustering(&|_: &edkm_llama::names::Parameter| None);
    if let Some(at) = everywhere {
        measure_moves(&mut model, &mut layers, at, &batches, &mut |share| {
            progress(0.6 + 0.4 * share)
        })?;
    }
    Ok(Sensitivities {
        model,
        layers,
        batches,
        everywhere,
    })
}

/// What widths cost, and the means to measure what a choice of them does.
pub(super) struct Sensitivities<D: EdkmDevice> {
    model: DynamicLlama<D>,
    layers: Vec<Layer>,
    batches: Vec<Batch>,
    everywhere: Option<usize>,
}

impl<D: EdkmDevice> Sensitivities<D> {
    /// The layers and what each width costs them.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        self.layers.iter().map(|layer| layer.candidate.clone()).collect()
    }

    /// The same without the widths below the largest that fits everywhere; `None` if there is none.
    pub(super) fn candidates_upwards(&self) -> Option<Vec<Candidate>> {
        let at = self.everywhere?;
        let mut candidates = self.candidates();
        for Candidate { widths, .. } in &mut candidates {
            widths.drain(..at.min(widths.len() - 1));
        }
        Some(candidates)
    }

    /// The loss in nats a token with each layer at its width. `progress` is told that all else is done.
    ///
    /// # Errors
    /// An op that failed, what `progress` gives.
    pub(super) fn loss(&mut self, widths: &[Bits], progress: &mut OnProgress<'_>) -> Result<f64, TrainError> {
        for (layer, &bits) in self.layers.iter().zip(widths) {
            set_weight(&mut self.model, layer, bits)?;
        }
        let losses = Prefix::new(&self.model, &self.batches)?.losses(&self.model, &mut || progress(1.0))?;
        let counted = self.batches.iter().map(Batch::counted);
        let sum: f64 = losses.iter().zip(counted.clone()).map(|(l, n)| l * n).sum();
        Ok(sum / counted.sum::<f64>())
    }
}

/// The bytes of a budget of bits a weight. Files have whole ones: a budget that was computed from a file's size allows that file.
pub(super) fn whole_bytes(budget: f64, weights: f64) -> f64 {
    (budget * weights / 8.0 + 1e-6).floor()
}

/// The largest width that fits everywhere, as an index into the widths of the layers that have several; `None` if not even the second fits.
fn operating_point(layers: &[Layer], budget: f64) -> Option<usize> {
    let bytes_at = |at: usize| -> f64 {
        let width = |layer: &Layer| {
            let widths = &layer.candidate.widths;
            widths[at.min(widths.len() - 1)].bytes as f64
        };
        layers.iter().map(width).sum()
    };
    let weights: f64 = layers.iter().map(|layer| layer.candidate.weights as f64).sum();
    let widths = layers.iter().map(|layer| layer.candidate.widths.len()).max()?;
    let budget = whole_bytes(budget, weights);
    (1..widths).rev().find(|&at| bytes_at(at) <= budget)
}
