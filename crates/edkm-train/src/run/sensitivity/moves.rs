//! What the loss does when one layer is moved by a bit, the others staying where they are.

use std::collections::BTreeMap;

use dfdx_edkm::EdkmDevice;
use edkm_cluster::Bits;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;
use edkm_llama::names::parameters;

use super::layer::Layer;
use super::prefix::Prefix;
use crate::compress::replace_values;
use crate::data::windows::Batch;
use crate::run::OnProgress;
use crate::TrainError;

/// A measured worth of bits is at least this part of what is usual: on little text a bit more may seem to do harm.
const LEAST: f64 = 0.5;

/// Scales the losses of each layer to what moving it by a bit from width `at` is measured to do.
pub(super) fn measure_moves<D: EdkmDevice>(
    model: &mut DynamicLlama<D>,
    layers: &mut [Layer],
    at: usize,
    batches: &[Batch],
    progress: &mut OnProgress<'_>,
) -> Result<(), TrainError> {
    for layer in layers.iter() {
        let widths = &layer.candidate.widths;
        set_weight(model, layer, widths[at.min(widths.len() - 1)].bits)?;
    }
    let mut prefix = Prefix::new(model, batches)?;
    let here = prefix.losses(model, &mut || progress(0.0))?;
    // what is outside of the decoder's layers has one width
    let places = places(&model.config);
    let place = |layer: &Layer| match layer.candidate.widths.len() {
        0 | 1 => None,
        _ => places.get(&layer.candidate.name).copied(),
    };
    let depth = model.layers.len();
    let work = |at: usize| (depth + 1 - at) as f64;
    let all: f64 = layers.iter().filter_map(place).map(work).sum();
    let mut done = 0.0;
    let (mut down, mut up) = (Vec::new(), Vec::new());
    for (index, layer) in layers.iter().enumerate() {
        let Some(decoder_layer) = place(layer) else { continue };
        let widths = &layer.candidate.widths;
        prefix.go_on_to(decoder_layer, model)?;
        let of_batch = work(decoder_layer) / (2.0 * batches.len() as f64);
        let mut tell = || {
            done += of_batch;
            progress(done / all)
        };
        let mut moved = |to: usize| -> Result<Move, TrainError> {
            set_weight(model, layer, widths[to].bits)?;
            let estimate = widths[to].loss - widths[at].loss;
            let there = prefix.losses(model, &mut tell)?;
            Ok(Move::of(index, estimate, &here, &there, batches))
        };
        down.push(moved(at - 1)?);
        if at + 1 < widths.len() {
            up.push(moved(at + 1)?);
        }
        set_weight(model, layer, widths[at].bits)?;
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

/// The decoder's layer that each parameter inside the decoder is of.
fn places(config: &LlamaConfig) -> BTreeMap<String, usize> {
    parameters(config)
        .filter_map(|parameter| Some((parameter.name, parameter.layer?)))
        .collect()
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

/// Gives the model the layer's weight as it is with so many bits.
pub(super) fn set_weight<D: EdkmDevice>(
    model: &mut DynamicLlama<D>,
    layer: &Layer,
    bits: Bits,
) -> Result<(), TrainError> {
    let mut values = Some(layer.palettized(bits)?.dequantize());
    replace_values(model, |name, _| values.take_if(|_| name == layer.candidate.name))
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
