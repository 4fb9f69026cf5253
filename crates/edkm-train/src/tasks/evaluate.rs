//! Log likelihoods of the answers.

use edkm_llama::inference::{Continuation, InferenceModel};
use rayon::prelude::*;

use super::question::{Choice, TaskSet};
use crate::{Tokenizer, TrainError};

/// Questions that are asked together: enough for full batches, few enough for a bar that moves.
const TOGETHER: usize = 32;

/// What a model makes of a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The natural logarithm of each answer's likelihood, summed over its tokens.
    pub log_likelihoods: Vec<f64>,
    /// Whether a sequence was longer than the model's context and lost its beginning.
    pub shortened: bool,
}

/// Asks a model all questions. `progress` is told how many are done.
///
/// Context and continuation are tokenized together, with the begin token in front; the tokens behind those of the context alone
/// are the continuation's. Spaces at the end of a context belong to the continuation. Sequences that are longer than the model's
/// context lose their beginning.
///
/// # Errors
/// Text that the tokenizer cannot encode; a model that computes what is not finite.
pub fn evaluate(
    model: &InferenceModel,
    tokenizer: &Tokenizer,
    set: &TaskSet,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Answered>, TrainError> {
    tokenizer.check_vocabulary(model.config().vocab_size)?;
    let mut scorer = model.scorer()?;
    let mut answered = Vec::with_capacity(set.questions().len());
    for questions in set.questions().chunks(TOGETHER) {
        // of several errors always the first, whatever thread comes to one
        let encoded: Vec<_> = questions
            .par_iter()
            .map(|question| {
                let encode = |choice| Encoded::new(choice, tokenizer, model.context_limit());
                question.choices.iter().map(encode).collect()
            })
            .collect();
        let encoded = encoded.into_iter().collect::<Result<Vec<Vec<Encoded>>, TrainError>>()?;
        let asked: Vec<_> = encoded.iter().flatten().map(Encoded::continuation).collect();
        let mut scored = scorer.log_likelihoods(&asked)?.into_iter();
        answered.extend(encoded.iter().map(|choices| {
            Answered {
                shortened: choices.iter().any(|choice| choice.shortened),
                log_likelihoods: scored
                    .by_ref()
                    .take(choices.len())
                    .map(|tokens| tokens.iter().map(|&token| f64::from(token)).sum())
                    .collect(),
            }
        }));
        progress(answered.len());
    }
    Ok(answered)
}

/// An answer as tokens.
#[derive(Debug, PartialEq)]
pub(super) struct Encoded {
    tokens: Vec<u32>,
    /// Tokens of the context, at least one.
    context: usize,
    /// Whether it lost its beginning.
    shortened: bool,
}

impl Encoded {
    /// At most `limit + 1` tokens: from the last nothing is predicted.
    pub(super) fn new(choice: &Choice, tokenizer: &Tokenizer, limit: usize) -> Result<Self, TrainError> {
        let context = choice.context.trim_end();
        let whole = format!("{}{}", choice.context, choice.continuation);
        let mut tokens = tokenizer.encode_question(&whole)?;
        let mut context = tokenizer.encode_question(context)?.len().min(tokens.len());
        if context == 0 {
            // As in the harness, which takes the one that ends a text where there is none that begins it.
            let begin = tokenizer
                .begin_token()
                .or(tokenizer.end_token())
                .ok_or_else(|| TrainError::Tokenizer {
                    path: tokenizer.path().to_path_buf(),
                    reason: "it has neither a begin token nor an end token, so an empty context has no token"
                        .to_owned(),
                })?;
            tokens.insert(0, begin);
            context = 1;
        }
        let cut = tokens.len().saturating_sub(limit.saturating_add(1));
        tokens.drain(..cut);
        Ok(Self {
            tokens,
            // A continuation that fills the whole context gives its first token up for one.
            context: context.saturating_sub(cut).max(1),
            shortened: cut > 0,
        })
    }

    pub(super) fn continuation(&self) -> Continuation<'_> {
        let (context, tokens) = self.tokens.split_at(self.context.min(self.tokens.len()));
        Continuation { context, tokens }
    }
}
