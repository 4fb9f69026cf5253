//! Tokens from a prompt.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use super::{sampling::Sampler, sampling::SamplingOptions, InferenceModel, Session};
use crate::LlamaError;

/// How long tokens are generated, and how they are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// The most tokens that are generated.
    pub max_tokens: usize,
    /// Tokens that end the text; they are not handed over.
    pub stop_tokens: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
}

impl GenerateOptions {
    /// Up to 256 tokens, ended by the tokens that the model's configuration says: those that end a text, and the one that begins another.
    pub fn for_model(model: &InferenceModel) -> Self {
        let config = model.config();
        let begin = config
            .bos_token_id
            .filter(|begin| !config.eos_token_ids.contains(begin));
        let stop_tokens = config.eos_token_ids.iter().copied().chain(begin).collect();
        Self {
            max_tokens: 256,
            stop_tokens,
            sampling: SamplingOptions::default(),
        }
    }
}

/// Why no more tokens came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// As many as were asked for were generated.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The model ended the text with this token.
    StopToken(u32),
    /// The caller wanted no more.
    Caller,
}

/// What was generated, and how fast.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The tokens that were handed over.
    pub tokens: Vec<u32>,
    /// Why no more came.
    pub stop: StopReason,
    /// Tokens of the prompt that were read.
    pub prompt_tokens: usize,
    /// Time for reading the prompt.
    pub prompt_time: Duration,
    /// Generated tokens that were read in turn, one at a time.
    pub decoded_tokens: usize,
    /// Time for reading them and choosing the next. What the caller does with a token is not counted.
    pub decode_time: Duration,
    /// Bytes of the key and value cache.
    pub cache_bytes: usize,
}

impl Generation {
    /// Tokens of the prompt read in a second.
    pub fn prompt_tokens_per_second(&self) -> f64 {
        per_second(self.prompt_tokens, self.prompt_time)
    }

    /// Tokens generated in a second, once the prompt was read; 0 if there was no such token.
    pub fn decode_tokens_per_second(&self) -> f64 {
        per_second(self.decoded_tokens, self.decode_time)
    }
}

fn per_second(count: usize, time: Duration) -> f64 {
    match count {
        0 => 0.0,
        // A clock may stand still for a token of a tiny model.
        _ => count as f64 / time.as_secs_f64().max(1e-9),
    }
}

/// Reads `prompt` behind what the session has read, then generates tokens and hands over each as it is chosen.
///
/// `on_token` ends it by [`ControlFlow::Break`]; that is where a caller who turns tokens into text looks for stop strings.
/// The session has then read all tokens but the last one handed over, with which a later call begins its prompt; where it ended at a
/// [stop token](StopReason::StopToken), which is not handed over, it has read that last one too. [`Session::keep_common_prefix`] with the whole conversation
/// serves both.
///
/// # Errors
/// Options out of range, and those of [`Session::prefill`].
pub fn generate(
    session: &mut Session,
    prompt: &[u32],
    options: &GenerateOptions,
    mut on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Generation, LlamaError> {
    let mut sampler = Sampler::new(options.sampling)?;
    let begin = Instant::now();
    session.prefill(prompt)?;
    let mut generation = Generation {
        tokens: Vec::new(),
        stop: StopReason::MaxTokens,
        prompt_tokens: prompt.len(),
        prompt_time: begin.elapsed(),
        decoded_tokens: 0,
        decode_time: Duration::ZERO,
        cache_bytes: session.cache_bytes(),
    };
    while generation.tokens.len() < options.max_tokens {
        let begin = Instant::now();
        if let Some(&last) = generation.tokens.last() {
            if session.room() == 0 {
                generation.stop = StopReason::ContextFull;
                break;
            }
            session.decode(last)?;
            generation.decoded_tokens += 1;
        }
        let token = sampler.sample(session.logits(), session.tokens())?;
        generation.decode_time += begin.elapsed();
        if options.stop_tokens.contains(&token) {
            generation.stop = StopReason::StopToken(token);
            break;
        }
        generation.tokens.push(token);
        if on_token(token).is_break() {
            generation.stop = StopReason::Caller;
            break;
        }
    }
    Ok(generation)
}

#[cfg(test)]
mod tests;
