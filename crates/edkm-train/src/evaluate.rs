//! Perplexity.

use dfdx::prelude::*;
use dfdx_edkm::{with_reason, EdkmDevice};
use edkm_llama::inference::{Continuation, InferenceModel};
use edkm_llama::model::DynamicLlama;

use crate::data::windows::{evaluation_batches, Batch};
use crate::data::TokenStream;
use crate::run::{check_positions, OnProgress};
use crate::trainer::model_input;
use crate::TrainError;

/// How well a model predicts a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// exp of the mean negative log likelihood.
    pub perplexity: f64,
    /// Predictions that counted.
    pub tokens: u64,
}

/// A perplexity in ten characters, whatever it is.
pub fn perplexity_in_words(perplexity: f64) -> String {
    match perplexity {
        p if p < 1e5 => format!("{p:.4}"),
        p if p.is_finite() => format!("{p:.2e}"),
        p => p.to_string(),
    }
}

/// Tokens of one forward pass: enough to fill the matrix kernels, little memory.
const TOKENS_TOGETHER: usize = 2048;

/// Perplexity of `model` on `stream`, in windows of `sequence + 1` tokens ([`evaluation_batches`]): the sum of the negative log likelihoods over
/// the number of predictions, exp. `progress` is told the share that is done.
///
/// # Errors
/// Fewer tokens than one window, more than the model has positions, tokens that it has not; an op that failed; what `progress` gives.
pub fn perplexity<D: EdkmDevice>(
    model: &DynamicLlama<D>,
    stream: &TokenStream,
    sequence: usize,
    progress: &mut OnProgress<'_>,
) -> Result<Perplexity, TrainError> {
    check_positions(sequence, &model.config)?;
    let vocabulary = model.config.vocab_size;
    if let Some(token) = stream.tokens().iter().find(|&&token| token as usize >= vocabulary) {
        return Err(TrainError::Setting {
            setting: "text",
            value: format!("with token {token}"),
            expected: "tokens that the model has: the tokenizer is another model's",
        });
    }
    let batch = (TOKENS_TOGETHER / sequence.max(1)).max(1);
    let all = stream.counted().max(1) as f64;
    let (mut total, mut counted) = (0.0, 0.0);
    for batch in evaluation_batches(stream, sequence, batch)? {
        let weight = batch.counted();
        let (tokens, targets) = model_input(batch);
        let (loss, reason) = with_reason(|| model.try_loss(&tokens, targets, NoneTape));
        let loss = loss.map_err(|error| TrainError::Device {
            reason: format!(
                "evaluation: {}",
                reason.map_or_else(|| error.to_string(), |reason| reason.to_string())
            ),
        })?;
        total += f64::from(loss.as_vec()[0]) * weight;
        counted += weight;
        progress((counted / all).min(1.0))?;
    }
    if counted == 0.0 {
        return Err(TrainError::NothingToLearn { tokens: stream.len() });
    }
    Ok(Perplexity {
        perplexity: (total / counted).exp(),
        tokens: counted as u64,
    })
}

/// [`perplexity`] of a model as it is used: palettized weights stay packed, and nothing is kept for a backward pass.
/// `progress` is told how many predictions that count are done, of [`TokenStream::counted`] at most.
///
/// # Errors
/// Fewer tokens than one window, windows longer than the model's context, logits that are not finite.
pub fn packed_perplexity(
    model: &InferenceModel,
    stream: &TokenStream,
    sequence: usize,
    mut progress: impl FnMut(usize),
) -> Result<Perplexity, TrainError> {
    let windows = (TOKENS_TOGETHER / sequence.max(1)).max(1);
    let mut scorer = model.scorer()?;
    let (mut total, mut counted) = (0.0, 0.0);
    for batch in evaluation_batches(stream, sequence, windows)? {
        let stretches = with_what_follows(&batch);
        let asked: Vec<_> = stretches
            .iter()
            .map(|(tokens, _)| Continuation {
                context: &tokens[..1],
                tokens: &tokens[1..],
            })
            .collect();
        let log_likelihoods = scorer.log_likelihoods(&asked)?;
        for (log_likelihoods, (_, weights)) in log_likelihoods.iter().zip(&stretches) {
            for (log_likelihood, &weight) in log_likelihoods.iter().zip(*weights) {
                total -= f64::from(*log_likelihood) * f64::from(weight);
            }
        }
        counted += batch.counted();
        progress(counted as usize);
    }
    if counted == 0.0 {
        return Err(TrainError::NothingToLearn { tokens: stream.len() });
    }
    Ok(Perplexity {
        perplexity: (total / counted).exp(),
        tokens: counted as u64,
    })
}

/// Each stretch of a batch that sees itself alone, with the token that follows it, and the weights of its predictions; those of which nothing counts are left out.
fn with_what_follows(batch: &Batch) -> Vec<(Vec<u32>, &[f32])> {
    let mut begin = 0;
    let stretch = |&length: &u32| {
        let of_stretch = begin..begin + length as usize;
        begin = of_stretch.end;
        let tokens = [
            &batch.inputs[of_stretch.start..=of_stretch.start],
            &batch.targets[of_stretch.clone()],
        ]
        .concat();
        (tokens, &batch.weights[of_stretch])
    };
    let stretches = batch.stretches.iter().map(stretch);
    stretches
        .filter(|(_, weights)| weights.iter().any(|&weight| weight > 0.0))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use edkm_llama::checkpoint::{FloatDtype, Sharding};
    use edkm_llama::config::LlamaConfig;

    use super::*;
    use crate::data::Apart;
    use crate::init::random_weights;

    const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}"#;

    /// The negative log likelihood of a text in one window, and its predictions.
    fn alone(model: &DynamicLlama<Cpu>, tokens: &[u32]) -> (f64, f64) {
        let stream = TokenStream::from_tokens(tokens.to_vec());
        let found = perplexity(model, &stream, tokens.len() - 1, &mut |_| Ok(())).unwrap();
        (found.perplexity.ln() * found.tokens as f64, found.tokens as f64)
    }

    #[test]
    fn records_are_measured_as_each_by_itself() {
        let config = LlamaConfig::from_json(Path::new("config.json"), CONFIG).unwrap();
        let mut weights = random_weights(1, 2, 0.6);
        let mut model: DynamicLlama<Cpu> = DynamicLlama::from_weights(&config, &Cpu::default(), &mut weights).unwrap();
        let dir = tempfile::tempdir().unwrap();
        config.write(dir.path()).unwrap();
        model
            .write_weights(dir.path(), &[], FloatDtype::F32, Sharding::Single)
            .unwrap();
        let packed = InferenceModel::open(dir.path()).unwrap();

        let tokens: Vec<u32> = (0..36).map(|at| at * at % 47).collect();
        let records = TokenStream::of_records(tokens.clone(), vec![true; 36], 9);
        let (mut total, mut predicted) = (0.0, 0.0);
        for record in tokens.chunks(9) {
            let (loss, count) = alone(&model, record);
            total += loss;
            predicted += count;
        }
        let want = (total / predicted).exp();
        // a window has room for one, two or all of them
        for window in [11, 17, 35] {
            let trained = perplexity(&model, &records, window, &mut |_| Ok(())).unwrap();
            let mut done = 0;
            let used = packed_perplexity(&packed, &records, window, |counted| done = counted).unwrap();
            assert_eq!(done, records.counted());
            for found in [trained, used] {
                assert_eq!(found.tokens as f64, predicted, "windows of {window}");
                assert!(
                    (found.perplexity / want - 1.0).abs() < 1e-5,
                    "windows of {window}: {} in place of {want}",
                    found.perplexity
                );
            }
            let together = records.clone().with_apart(Apart::Nothing);
            let other = perplexity(&model, &together, window, &mut |_| Ok(())).unwrap();
            assert!(other.tokens == 35 && (other.perplexity / want - 1.0).abs() > 1e-3);
        }
    }
}
