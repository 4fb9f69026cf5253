//! Bits by layer: as many where they are felt, as few where they are not, so many on average.
//!
//! [`super::sensitivity`] says what each width costs each layer. What is left is a knapsack: each layer takes one of its widths, sizes in all at most
//! the budget. It is filled from the smallest widths up, by the most loss avoided a bit.

use std::collections::BTreeMap;
use std::path::Path;

use dfdx_edkm::EdkmDevice;
use edkm_cluster::KeepZero;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;
use serde::{Deserialize, Serialize};

use super::sensitivity::{sensitivities, whole_bytes, Candidate, Width};
use super::{ClusterSettings, LayerRule, LayerRules, Observer, OnProgress, Stage};
use crate::compress::Calibration;
use crate::TrainError;

/// The width of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BitsChoice {
    /// The parameter.
    pub name: String,
    /// Bits of an index.
    pub bits: u8,
    /// Bits a weight, palettes and padding counted.
    pub bits_per_weight: f64,
    /// The loss that its palette adds without training, in nats a token, as it is estimated.
    pub estimated_loss: f64,
}

/// `clustering` with the bits of each layer of `model` chosen so that bits a weight, everything counted, are at most `budget`; and the choice. Layers
/// whose bits a rule has set keep them, and count; so do embeddings with bits of their own. `progress` is told the share that is done.
///
/// # Errors
/// A budget below what the smallest widths take; those of [`crate::compress::importance`] and of clustering; what `progress` gives.
pub fn choose_bits<D: EdkmDevice>(
    model: &DynamicLlama<D>,
    clustering: &ClusterSettings,
    budget: f64,
    calibration: &Calibration<'_>,
    progress: &mut OnProgress<'_>,
) -> Result<(ClusterSettings, Vec<BitsChoice>), TrainError> {
    let mut sensitivities = sensitivities(model, clustering, budget, calibration, progress)?;
    let candidates = sensitivities.candidates();
    let weights: f64 = candidates.iter().map(|layer| layer.weights as f64).sum();
    let bytes = whole_bytes(budget, weights);
    let fill = |candidates: &[Candidate]| -> Result<Vec<Width>, f64> {
        let chosen = knapsack(candidates, bytes)?;
        Ok(candidates
            .iter()
            .zip(chosen)
            .map(|(layer, at)| layer.widths[at])
            .collect())
    };
    let most: usize = candidates
        .iter()
        .filter_map(|layer| layer.widths.iter().map(|width| width.bytes).max())
        .sum();
    if bytes >= most as f64 {
        let most = most as f64 * 8.0 / weights;
        tracing::warn!(
            "the layers take {most:.3} bits a weight at the most: a budget of {budget} leaves nothing to choose"
        );
    }
    let usual: Vec<Candidate> = candidates.iter().map(Candidate::of_usual_widths).collect();
    let mut chosen = match fill(&usual).or_else(|_| fill(&candidates)) {
        Ok(chosen) => chosen,
        Err(least) => {
            let least = least * 8.0 / weights;
            return Err(TrainError::Budget { budget, least });
        }
    };
    // many layers that are each given a bit less may cost more than the sum: then all keep what they can have alike
    if let Some(careful) = sensitivities
        .candidates_upwards()
        .and_then(|upwards| fill(&upwards).ok())
    {
        let bits = |widths: &[Width]| widths.iter().map(|width| width.bits).collect::<Vec<_>>();
        if bits(&careful) != bits(&chosen)
            && sensitivities.loss(&bits(&careful), progress)? < sensitivities.loss(&bits(&chosen), progress)?
        {
            chosen = careful;
        }
    }
    let mut settings = clustering.clone();
    let mut choices = Vec::with_capacity(candidates.len());
    for (layer, Width { bits, bytes, loss }) in candidates.into_iter().zip(chosen) {
        settings.rules.0.push(LayerRule::bits_of(&layer.name, bits));
        choices.push(BitsChoice {
            name: layer.name,
            bits: bits.get(),
            bits_per_weight: 8.0 * bytes as f64 / layer.weights as f64,
            estimated_loss: loss,
        });
    }
    Ok((settings, choices))
}

/// `clustering` with its budget, if it has one, spent on the layers of `model`; and the choice.
///
/// # Errors
/// A pattern that matches nothing, and those of [`choose_bits`].
pub(super) fn settle<D: EdkmDevice>(
    model: &DynamicLlama<D>,
    clustering: &ClusterSettings,
    calibration: Option<&Calibration<'_>>,
    observer: &mut impl Observer,
) -> Result<(ClusterSettings, Vec<BitsChoice>), TrainError> {
    clustering.rules.check(&model.config)?;
    match clustering.bits_budget {
        None => Ok((clustering.clone(), Vec::new())),
        Some(budget) => {
            let calibration = calibration.ok_or(TrainError::NoCalibration {
                method: "a bits budget",
            })?;
            observer.stage(Stage::ChooseBits);
            let chosen = choose_bits(model, clustering, budget, calibration, &mut |share| {
                observer.advance(share)
            })?;
            observer.result(&widths_in_words(&chosen.1));
            Ok(chosen)
        }
    }
}

/// The file in a compressed model's folder that says how its palettes were made, where `model.safetensors` does not.
pub(super) const RULES: &str = "layers.toml";

/// Writes [`OUT/layers.toml`](RULES), if there are rules or zeros that stay: what `--layers` takes to get the same again, without any other setting of palettes.
///
/// # Errors
/// A file that cannot be written.
pub(super) fn write_rules(clustering: &ClusterSettings, config: &LlamaConfig, out: &Path) -> Result<(), TrainError> {
    if clustering.rules != LayerRules::default() || clustering.keep_zero == KeepZero::Exact {
        let path = out.join(RULES);
        let rules = clustering.as_rules(config);
        std::fs::write(&path, rules.to_toml()).map_err(TrainError::io("write", &path))?;
    }
    Ok(())
}

/// The index of each layer's width: all together at most `bytes`.
///
/// # Errors
/// The bytes of the smallest widths, if those are more.
fn knapsack(layers: &[Candidate], bytes: f64) -> Result<Vec<usize>, f64> {
    let smallest = |layer: &Candidate| {
        let by_bytes = |&at: &usize| layer.widths[at].bytes;
        (0..layer.widths.len()).min_by_key(by_bytes).unwrap_or(0)
    };
    let mut chosen: Vec<usize> = layers.iter().map(smallest).collect();
    let least: f64 = layers
        .iter()
        .zip(&chosen)
        .map(|(l, &at)| l.widths[at].bytes as f64)
        .sum();
    let mut rest = bytes - least;
    if rest.is_nan() || rest < 0.0 {
        return Err(least);
    }
    // each step takes the layer and width with the most loss avoided a byte, among those that fit: along the convex hull of each layer
    // while there is room, then whatever still fits
    loop {
        let mut best: Option<(f64, usize, usize, f64)> = None;
        for (i, (layer, &at)) in layers.iter().zip(&chosen).enumerate() {
            let now = layer.widths[at];
            for (to, width) in layer.widths.iter().enumerate() {
                let (more, gain) = (width.bytes as f64 - now.bytes as f64, now.loss - width.loss);
                if gain <= 0.0 || more > rest {
                    continue;
                }
                let worth = if more > 0.0 { gain / more } else { f64::INFINITY };
                if best.is_none_or(|(most, ..)| worth > most) {
                    best = Some((worth, i, to, more));
                }
            }
        }
        let Some((_, i, to, more)) = best else {
            return Ok(chosen);
        };
        chosen[i] = to;
        rest -= more;
    }
}

/// How many layers have each width: "3 of 2 bits, 10 of 3 bits".
pub fn widths_in_words(choices: &[BitsChoice]) -> String {
    let mut counts = BTreeMap::new();
    for choice in choices {
        *counts.entry(choice.bits).or_insert(0usize) += 1;
    }
    let words: Vec<String> = counts
        .into_iter()
        .map(|(bits, count)| format!("{count} of {bits} bit{}", if bits == 1 { "" } else { "s" }))
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use edkm_cluster::Bits;

    use super::*;

    fn layer(widths: &[(usize, f64)]) -> Candidate {
        let widths = widths.iter().enumerate().map(|(i, &(bytes, loss))| Width {
            bits: Bits::new(i as u8 + 1).unwrap(),
            bytes,
            loss,
        });
        Candidate {
            name: String::new(),
            weights: 8,
            widths: widths.collect(),
        }
    }

    #[test]
    fn bits_go_where_they_avoid_most_loss() {
        let layers = [
            layer(&[(1, 9.0), (2, 1.0), (3, 0.5)]),
            layer(&[(1, 2.0), (2, 1.5), (3, 1.4)]),
        ];
        assert_eq!(knapsack(&layers, 2.0).unwrap(), [0, 0]);
        assert_eq!(knapsack(&layers, 3.0).unwrap(), [1, 0]);
        assert_eq!(knapsack(&layers, 6.0).unwrap(), [2, 2]);
        assert_eq!(knapsack(&layers, 1.9), Err(2.0));
        assert_eq!(knapsack(&layers, f64::NAN), Err(2.0));
        // a step that is worth little alone and much with the next one
        let hull = [
            layer(&[(1, 9.0), (2, 8.9), (3, 0.0)]),
            layer(&[(1, 2.0), (2, 1.0), (3, 1.0)]),
        ];
        assert_eq!(knapsack(&hull, 4.0).unwrap(), [2, 0]);
    }

    #[test]
    fn no_choice_is_much_better() {
        let mut state = 5u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        for _ in 0..50 {
            let layers: Vec<Candidate> = (0..5)
                .map(|_| {
                    let scale = random() * 10.0;
                    let size = 1 + (random() * 4.0) as usize;
                    layer(&[1, 2, 3, 4].map(|b| (b * size, scale * 0.25f64.powi(b as i32))))
                })
                .collect();
            let smallest: usize = layers.iter().map(|l| l.widths[0].bytes).sum();
            let budget = smallest as f64 * (1.0 + 3.0 * random());
            let total = |chosen: &[usize]| {
                let widths = layers.iter().zip(chosen).map(|(l, &at)| l.widths[at]);
                widths.fold((0.0, 0.0), |(bytes, loss), w| (bytes + w.bytes as f64, loss + w.loss))
            };
            let (bytes, loss) = total(&knapsack(&layers, budget).unwrap());
            assert!(bytes <= budget);
            let best = (0..4usize.pow(5))
                .map(|code| total(&[0, 1, 2, 3, 4].map(|i| code / 4usize.pow(i) % 4)))
                .filter(|(bytes, _)| *bytes <= budget)
                .map(|(_, loss)| loss)
                .fold(f64::INFINITY, f64::min);
            let start = total(&[0; 5]).1;
            // greedy filling loses at most the last step's worth; of five layers that is little
            assert!(start - loss >= 0.85 * (start - best), "{loss} {best} of {start}");
        }
    }
}
