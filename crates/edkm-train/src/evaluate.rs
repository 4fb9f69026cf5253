//! Perplexity.

use dfdx::prelude::*;
use dfdx_edkm::{with_reason, EdkmDevice};
use edkm_llama::inference::{Continuation, InferenceModel};
use edkm_llama::model::DynamicLlama;

use crate::data::windows::evaluation_batches;
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

/// Perplexity of `model` on `stream`: windows of `sequence + 1` tokens with stride `sequence`, the sum of the negative log likelihoods over
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
    let (mut total, mut counted, mut read) = (0.0, 0.0, 0);
    for batch in evaluation_batches(stream, sequence, batch)? {
        let weight = batch.counted();
        read += batch.inputs.len();
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
        progress(read as f64 / stream.len() as f64)?;
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
/// `progress` is told how many tokens of the stream are done.
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
    let (mut total, mut counted, mut read) = (0.0, 0.0, 0);
    for batch in evaluation_batches(stream, sequence, windows)? {
        // each window with the token that follows it
        let whole: Vec<Vec<u32>> = batch
            .inputs
            .chunks_exact(batch.sequence)
            .zip(batch.targets.chunks_exact(batch.sequence))
            .map(|(inputs, targets)| [&inputs[..1], targets].concat())
            .collect();
        let asked: Vec<_> = whole
            .iter()
            .map(|window| Continuation {
                context: &window[..1],
                tokens: &window[1..],
            })
            .collect();
        let log_likelihoods = model.continuation_log_likelihoods(&asked)?;
        for (log_likelihood, &weight) in log_likelihoods.iter().flatten().zip(&batch.weights) {
            total -= f64::from(*log_likelihood) * f64::from(weight);
        }
        counted += batch.counted();
        read += batch.inputs.len();
        progress(read);
    }
    if counted == 0.0 {
        return Err(TrainError::NothingToLearn { tokens: stream.len() });
    }
    Ok(Perplexity {
        perplexity: (total / counted).exp(),
        tokens: counted as u64,
    })
}
