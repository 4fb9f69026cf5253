//! What each width costs each layer.
//!
//! First an estimate: the squared error of the layer's palettized weights, each weighted by half the mean square of the loss's gradient, which is the
//! loss that it adds to second order (as HAWQ, arXiv 1911.03852, and SqueezeLLM, arXiv 2306.07629, have it). Alone, that misses how errors of
//! layers work on each other: together they cost more than their sum, and those of the first layers most. So all layers are palettized at one width, the
//! largest that fits the budget everywhere, and one layer after the other is moved a bit down and a bit up from there: what the loss does then is what
//! bits are worth where they are spent. The estimate gives the shape of the curve for the widths beyond.

use dfdx::prelude::*;
use dfdx_edkm::{ChannelScale, EdkmDevice, ParameterKind, ParameterVisitor, Parameters};
use edkm_cluster::{Bits, MatrixShape, Spec};
use edkm_llama::model::DynamicLlama;
use edkm_llama::LlamaError;
use edkm_palette::{PaletteDType, PalettizedMatrix};

use super::ClusterSettings;
use crate::compress::{estimated_loss, importance, k_means, Calibration, Importances};
use crate::data::windows::Batch;
use crate::trainer::model_input;
use crate::TrainError;

/// The widths that a layer may take, if the budget has room for the smallest of them everywhere. At 1 bit errors are so large that an estimate to
/// second order is far too low, and layers that are given so few spoil the model.
const WIDTHS: std::ops::RangeInclusive<u8> = 2..=8;

/// The width of all layers in a budget that is smaller still.
const SMALLEST: u8 = 1;

/// A measured worth of bits is at least this part of what is usual: on little text a bit more may seem to do harm.
const LEAST: f64 = 0.5;

/// Tokens on which moves are measured: two passes a layer. Before and after a move the text is the same, so that little of it tells.
const TOKENS_OF_MOVES: usize = 16_384;

/// Batches that they are measured in, at least, so that their differences tell how certain the mean is.
const BATCHES_OF_MOVES: usize = 16;

/// A layer and what each width costs it.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) weights: usize,
    /// By width.
    pub(super) widths: Vec<Width>,
}

impl Candidate {
    /// Without the smallest width, unless it has no other.
    pub(super) fn of_usual_widths(&self) -> Self {
        let is_usual = |width: &&Width| WIDTHS.contains(&width.bits.get());
        let widths: Vec<Width> = self.widths.iter().filter(is_usual).copied().collect();
        match widths.is_empty() {
            true => self.clone(),
            false => Self { widths, ..self.clone() },
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Width {
    pub(super) bits: Bits,
    pub(super) bytes: usize,
    /// Nats a token.
    pub(super) loss: f64,
}

/// What each width costs each clustered layer of `model`, in the order of the model. Layers whose bits a rule has set, and embeddings, have one width.
/// `progress` is told the share that is done.
///
/// Memory: 20 bytes a clustered weight.
///
/// # Errors
/// Those of [`importance`] and of clustering.
pub(super) fn sensitivities<D: EdkmDevice>(
    model: &DynamicLlama<D>,
    clustering: &ClusterSettings,
    budget: f64,
    calibration: &Calibration<'_>,
    progress: &mut dyn FnMut(f64),
) -> Result<Sensitivities<D>, TrainError> {
    let importances = importance(model, calibration, &mut |share| progress(0.3 * share))?;
    let mut model = model.clone();
    model.set_clustering(clustering);
    let mut measure = Measure {
        clustering,
        importances: &importances,
        layers: edkm_llama::names::parameters(&model.config).count(),
        done: 0,
        progress: &mut |share| progress(0.3 + 0.3 * share),
        found: Vec::new(),
    };
    model.visit_parameters("", &mut measure)?;
    let mut layers = measure.found;
    let windows = (TOKENS_OF_MOVES / calibration.sequence.max(1)).clamp(1, calibration.windows.max(1));
    let batches = Calibration {
        windows,
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

    /// The loss in nats a token with each layer at its width.
    ///
    /// # Errors
    /// An op that failed.
    pub(super) fn loss(&mut self, widths: &[Bits]) -> Result<f64, TrainError> {
        for (layer, &bits) in self.layers.iter().zip(widths) {
            set_weight(&mut self.model, layer, bits)?;
        }
        let losses = losses(&self.model, &self.batches)?;
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

/// Scales the losses of each layer to what moving it by a bit from width `at` is measured to do.
fn measure_moves<D: EdkmDevice>(
    model: &mut DynamicLlama<D>,
    layers: &mut [Layer],
    at: usize,
    batches: &[Batch],
    progress: &mut dyn FnMut(f64),
) -> Result<(), TrainError> {
    for layer in layers.iter() {
        let widths = &layer.candidate.widths;
        set_weight(model, layer, widths[at.min(widths.len() - 1)].bits)?;
    }
    let here = losses(model, batches)?;
    let count = layers.len() as f64;
    let (mut down, mut up) = (Vec::new(), Vec::new());
    for (index, layer) in layers.iter().enumerate() {
        let widths = &layer.candidate.widths;
        if widths.len() > 1 {
            let mut moved = |to: usize| -> Result<Move, TrainError> {
                set_weight(model, layer, widths[to].bits)?;
                let estimate = widths[to].loss - widths[at].loss;
                Ok(Move::of(index, estimate, &here, &losses(model, batches)?, batches))
            };
            down.push(moved(at - 1)?);
            if at + 1 < widths.len() {
                up.push(moved(at + 1)?);
            }
            set_weight(model, layer, widths[at].bits)?;
        }
        progress((index + 1) as f64 / count);
    }
    for (moves, is_side) in [
        (down, (|i, at| i < at) as fn(usize, usize) -> bool),
        (up, |i, at| i > at),
    ] {
        for (index, ratio) in ratios(&moves) {
            let widths = &mut layers[index].candidate.widths;
            let loss_here = widths[at].loss;
            for (_, width) in widths.iter_mut().enumerate().filter(|(i, _)| is_side(*i, at)) {
                width.loss = loss_here + ratio * (width.loss - loss_here);
            }
        }
    }
    Ok(())
}

/// What moving one layer by a bit does to the loss.
struct Move {
    layer: usize,
    /// Nats a token, as the squared gradients have it.
    estimate: f64,
    /// As it is measured, and its standard error.
    measured: f64,
    error: f64,
}

impl Move {
    fn of(layer: usize, estimate: f64, before: &[f64], after: &[f64], batches: &[Batch]) -> Self {
        let counted: f64 = batches.iter().map(Batch::counted).sum();
        let differences = || {
            after
                .iter()
                .zip(before)
                .map(|(after, before)| after - before)
                .zip(batches)
        };
        let measured = differences().map(|(d, batch)| d * batch.counted()).sum::<f64>() / counted;
        let squares: f64 = differences()
            .map(|(d, batch)| ((d - measured) * batch.counted() / counted).powi(2))
            .sum();
        let n = batches.len() as f64;
        Self {
            layer,
            estimate,
            measured,
            // of a single batch nothing is known: infinite
            error: (squares * n / (n - 1.0)).sqrt(),
        }
    }
}

/// By how much estimates are to be multiplied, by layer. On little text what is measured of one layer is mostly noise; then it counts for
/// little beside what is measured of all of them: the mean of a normal distribution whose prior has the common ratio for its mean and its deviation.
fn ratios(moves: &[Move]) -> Vec<(usize, f64)> {
    let sum = |of: fn(&Move) -> f64| moves.iter().map(of).sum::<f64>();
    let common = sum(|m| m.measured) / sum(|m| m.estimate);
    // no estimate at all: palettes hold every value
    let common = if common.is_finite() { common.max(LEAST) } else { 1.0 };
    let ratio = |m: &Move| {
        let certain = (m.estimate / m.error).powi(2);
        let prior = common.powi(-2);
        let ratio = match (m.measured / m.estimate, certain) {
            (measured, certain) if measured.is_finite() && certain.is_finite() => {
                (measured * certain + common * prior) / (certain + prior)
            }
            // measured without an error
            (measured, _) if measured.is_finite() && m.error == 0.0 => measured,
            _ => common,
        };
        (m.layer, ratio.max(LEAST * common))
    };
    moves.iter().map(ratio).collect()
}

/// Mean loss of each batch in nats a token.
fn losses<D: EdkmDevice>(model: &DynamicLlama<D>, batches: &[Batch]) -> Result<Vec<f64>, TrainError> {
    let loss = |batch: &Batch| {
        let (tokens, targets) = model_input(batch.clone());
        let loss = model
            .try_loss(&tokens, targets, NoneTape)
            .map_err(|error| TrainError::Device {
                reason: format!("calibration: {error}"),
            })?;
        Ok(f64::from(loss.as_vec()[0]))
    };
    batches.iter().map(loss).collect()
}

/// Gives the model the layer's weight as it is with so many bits.
fn set_weight<D: EdkmDevice>(model: &mut DynamicLlama<D>, layer: &Layer, bits: Bits) -> Result<(), TrainError> {
    struct Set<'a>(&'a str, Option<Vec<f32>>);
    impl<D: EdkmDevice> ParameterVisitor<D> for Set<'_> {
        type Error = TrainError;
        fn visit<S: Shape>(
            &mut self,
            name: &str,
            _: ParameterKind<'_>,
            parameter: &mut Tensor<S, f32, D>,
        ) -> Result<(), TrainError> {
            if let Some(values) = self.1.take_if(|_| name == self.0) {
                let (device, shape) = (parameter.device().clone(), *parameter.shape());
                *parameter = device
                    .tensor_from_host(values, shape)
                    .map_err(|error| TrainError::Device {
                        reason: format!("{name}: {error}"),
                    })?;
            }
            Ok(())
        }
    }
    let values = layer.palettized(bits)?.dequantize();
    model.visit_parameters("", &mut Set(&layer.candidate.name, Some(values)))
}

/// A layer that is measured.
struct Layer {
    candidate: Candidate,
    weight: Vec<f32>,
    importance: Vec<f32>,
    shape: MatrixShape,
    spec: Spec,
    channel_scale: ChannelScale,
    dtype: PaletteDType,
}

impl Layer {
    /// The weight by k-means weighted with its importances.
    fn palettized(&self, bits: Bits) -> Result<PalettizedMatrix, LlamaError> {
        let spec = Spec { bits, ..self.spec };
        k_means(
            &self.candidate.name,
            &self.weight,
            Some(&self.importance),
            self.shape,
            &spec,
            self.channel_scale,
            self.dtype,
        )
    }
}

struct Measure<'a> {
    clustering: &'a ClusterSettings,
    importances: &'a Importances,
    layers: usize,
    done: usize,
    progress: &'a mut dyn FnMut(f64),
    found: Vec<Layer>,
}

impl<D: EdkmDevice> ParameterVisitor<D> for Measure<'_> {
    type Error = LlamaError;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), LlamaError> {
        self.done += 1;
        let sizes = parameter.shape().concrete();
        if let (Some(clustering), &[rows, cols]) = (kind.clustering(), sizes.as_ref()) {
            let spec = clustering.spec();
            let fixed = matches!(kind, ParameterKind::Embedding { .. }) || self.clustering.rules.sets_bits_of(name);
            let widths = match fixed {
                true => vec![spec.bits.get()],
                false => std::iter::once(SMALLEST).chain(WIDTHS).collect(),
            };
            let mut layer = Layer {
                candidate: Candidate {
                    name: name.to_owned(),
                    weights: rows * cols,
                    widths: Vec::new(),
                },
                weight: parameter.as_vec(),
                importance: self
                    .importances
                    .get(name)
                    .cloned()
                    .unwrap_or_else(|| vec![1.0; rows * cols]),
                shape: MatrixShape { rows, cols },
                spec,
                channel_scale: clustering.channel_scale(),
                dtype: self.clustering.palette_dtype_of(name),
            };
            for bits in widths {
                let bits = Bits::new(bits).map_err(|source| LlamaError::Cluster {
                    name: name.to_owned(),
                    source,
                })?;
                let matrix = layer.palettized(bits)?;
                layer.candidate.widths.push(Width {
                    bits,
                    bytes: matrix.size_bytes(),
                    loss: estimated_loss(&layer.importance, &layer.weight, &matrix.dequantize()),
                });
            }
            self.found.push(layer);
        }
        (self.progress)(self.done as f64 / self.layers.max(1) as f64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn move_of(layer: usize, estimate: f64, measured: f64, error: f64) -> Move {
        Move {
            layer,
            estimate,
            measured,
            error,
        }
    }

    #[test]
    fn what_is_certain_is_taken_and_what_is_noise_is_what_all_say() {
        // all cost twice their estimate, but for one that costs six times; the last is hardly measured
        let moves = [
            move_of(0, 0.1, 0.2, 1e-4),
            move_of(1, 0.1, 0.6, 1e-4),
            move_of(2, 1.0, 1.6, 1e-3),
            move_of(5, 0.001, -0.05, 0.1),
        ];
        let found = ratios(&moves);
        let common = (0.2 + 0.6 + 1.6 - 0.05) / 1.201;
        let near = |at: usize, want: f64| assert!((found[at].1 - want).abs() < 0.02 * want, "{found:?}");
        near(0, 2.0);
        near(1, 6.0);
        near(2, 1.6);
        near(3, common);
        assert_eq!(found[3].0, 5);
    }

    #[test]
    fn nothing_measured_leaves_the_estimates() {
        for moves in [[move_of(0, 0.0, 0.0, 0.0)], [move_of(0, 0.1, 0.1, f64::NAN)]] {
            assert_eq!(ratios(&moves), [(0, 1.0)]);
        }
    }
}
