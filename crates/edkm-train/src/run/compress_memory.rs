//! What a compression without training takes of memory, said before it begins.

use dfdx_edkm::EdkmDevice;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::ClusterPlan;
use edkm_llama::names::{parameters, Role};

use super::sensitivity::windows_of_moves;
use super::CompressSettings;
use crate::compress::Method;
use crate::memory::available_bytes;
use crate::TrainError;

const FLOAT: u64 = 4;

/// The bytes that compressing this model takes at the least: its weights, what the method holds beside them, and the largest matrix in work. Measured on 91 million
/// parameters it was 1 to 9 % below the peak.
///
/// `tokens` are those of the windows that are looked at.
pub(super) fn needed_bytes(settings: &CompressSettings, config: &LlamaConfig, tokens: u64) -> u64 {
    let numbers = |shape: &[usize]| shape.iter().fold(1u64, |n, &axis| n.saturating_mul(axis as u64));
    let (mut all, mut found_bits, mut in_work, mut written, mut widest) = (0u64, 0u64, 0u64, 0u64, 0u64);
    let mut clustered = 0u64;
    for parameter in parameters(config) {
        let of_parameter = numbers(&parameter.shape);
        all = all.saturating_add(of_parameter);
        if let Some(spec) = settings.clustering.spec(&parameter) {
            let bits = u64::from(spec.bits.get()) / spec.dim() as u64;
            clustered = clustered.saturating_add(of_parameter);
            found_bits = found_bits.saturating_add(of_parameter.saturating_mul(bits));
            in_work = in_work.max(of_parameter.saturating_mul(2 * FLOAT));
            if parameter.role == Role::Linear {
                widest = widest.max(parameter.shape.last().map_or(0, |&inputs| inputs as u64));
            }
        } else {
            written = written.max(of_parameter.saturating_mul(FLOAT));
        }
    }
    let weights = all.saturating_mul(FLOAT);
    let besides = match settings.method {
        Method::RoundToNearest | Method::KMeans => 0,
        // the importance of each weight, and the gradients of a layer
        Method::WeightedKMeans => weights.saturating_add(weights / config.num_hidden_layers.max(1) as u64),
        Method::Gptq(_) => {
            // second moments of a layer's inputs in f64, and their factor
            let moments = 2 * 8 * widest.saturating_mul(widest);
            // the hidden states, and what the widest layer is given
            let of_token = FLOAT * (config.hidden_size as u64 + config.intermediate_size as u64);
            // one layer's weights are rounded ones; of the matrix in work there are importances, indices and rounded numbers besides
            (weights / config.num_hidden_layers.max(1) as u64)
                .saturating_add(moments)
                .saturating_add(tokens.saturating_mul(of_token))
                .saturating_add(in_work.saturating_mul(3) / 2)
        }
    };
    // first the importance of each weight; then those of what is clustered, its weights and the palettized ones, and hidden states
    let of_budget = match (settings.clustering.bits_budget, &settings.calibration) {
        (Some(_), Some(text)) => {
            let moved = windows_of_moves(text.sequence, text.windows).saturating_mul(text.sequence);
            let hidden = tokens
                .min(moved as u64)
                .saturating_mul(FLOAT * config.hidden_size as u64);
            weights.max(clustered.saturating_mul(3 * FLOAT).saturating_add(hidden))
        }
        _ => 0,
    };
    // of a budget's search nothing is left when the method begins
    // nothing else is there when what is not clustered is written
    let busy = besides.max(of_budget).saturating_add(in_work).max(written);
    [weights, found_bits / 8, busy].into_iter().fold(0, u64::saturating_add)
}

fn without_budget(settings: &CompressSettings, config: &LlamaConfig, tokens: u64) -> u64 {
    let mut settings = settings.clone();
    settings.clustering.bits_budget = None;
    needed_bytes(&settings, config, tokens)
}

/// Refuses a compression for which there is too little memory, before the model is read. Of a device with memory of its own nothing is known here.
pub(crate) fn check_memory<D: EdkmDevice>(
    settings: &CompressSettings,
    config: &LlamaConfig,
    tokens: u64,
    device: &D,
) -> Result<(), TrainError> {
    if device.free_bytes().is_ok_and(|free| free.is_some()) {
        return Ok(());
    }
    let needed = needed_bytes(settings, config, tokens);
    match available_bytes() {
        Some(available) if needed > available => Err(TrainError::NotEnough {
            what: "memory",
            needed,
            available,
            lower: match settings.method {
                _ if without_budget(settings, config, tokens) < needed => {
                    "--bits in place of --bits-budget, which takes less".to_owned()
                }
                Method::RoundToNearest | Method::KMeans => "a smaller model".to_owned(),
                Method::WeightedKMeans => "--method kmeans, which takes half".to_owned(),
                Method::Gptq(_) => "fewer --windows, or --method kmeans, which takes less".to_owned(),
            },
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use edkm_cluster::Bits;
    use edkm_llama::checkpoint::Overwrite;

    use super::*;
    use crate::compress::gptq::Levels;
    use crate::run::{CalibrationSettings, ClusterSettings, DataSource, OnLimits};

    /// A model of 91 million parameters: what was measured of it (peak resident memory, in MiB), and never more.
    #[test]
    fn figures_are_near_what_was_measured_and_not_above() {
        let config = r#"{"model_type": "llama", "vocab_size": 512, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8,
            "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 512, "tie_word_embeddings": true}"#;
        let config = LlamaConfig::from_json(Path::new("config.json"), config).unwrap();
        for (method, windows, bits_budget, measured) in [
            (Method::RoundToNearest, 0, None, 412.1),
            (Method::KMeans, 0, None, 410.9),
            (Method::KMeans, 1, Some(3.6), 1445.8),
            (Method::WeightedKMeans, 8, None, 853.7),
            (Method::Gptq(Levels::KMeans), 8, None, 690.2),
            (Method::Gptq(Levels::KMeans), 64, None, 882.5),
        ] {
            let settings = CompressSettings {
                model_dir: "model".into(),
                method,
                clustering: ClusterSettings {
                    bits_budget,
                    ..ClusterSettings::new(Bits::new(3).unwrap(), 0)
                },
                calibration: Some(CalibrationSettings {
                    data: DataSource::Text(String::new()),
                    sequence: 256,
                    windows: windows as usize,
                    seed: 0,
                }),
                out: "out".into(),
                overwrite: Overwrite::Refuse,
                on_limits: OnLimits::Refuse,
            };
            let needed = needed_bytes(&settings, &config, windows * 256) as f64 / f64::from(1 << 20);
            assert!(
                (0.9..=1.0).contains(&(needed / measured)),
                "{method:?} {windows}: {needed} MiB of {measured}"
            );
        }
    }
}
