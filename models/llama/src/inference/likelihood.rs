//! Log likelihoods of given tokens: what perplexity and multiple-choice tasks are computed from.
//!
//! Sequences run together in batches of some hundred tokens; those that begin with the same context share its computation
//! and its keys and values. Only the tokens that are asked for pass through the output projection, in chunks: the logits of a
//! whole batch are never held.
#![allow(non_snake_case)]

use edkm_kernels::{elementwise::exp, lanes::dispatch};

use super::{
    cache::{CacheType, Span, LANES},
    executor::{Executor, Room, Target},
    InferenceModel, InferenceProblem, Session,
};
use crate::LlamaError;

/// Tokens whose likelihood is asked for, and those before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation<'a> {
    /// What the model has read before; at least one token, such as the one that begins a text.
    pub context: &'a [u32],
    /// The tokens that follow.
    pub tokens: &'a [u32],
}

/// A likelihood that is asked for.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    target: Target,
    /// Which continuation it belongs to.
    continuation: usize,
}

impl InferenceModel {
    /// The natural logarithm of each token's probability given those before it: number i belongs to token i + 1, for the
    /// first token has nothing before it.
    ///
    /// Memory: as [`continuation_log_likelihoods`](Self::continuation_log_likelihoods).
    ///
    /// # Errors
    /// As there.
    pub fn log_likelihoods(&self, tokens: &[u32]) -> Result<Vec<f32>, LlamaError> {
        let (context, tokens) = tokens.split_at(tokens.len().min(1));
        Ok(self
            .continuation_log_likelihoods(&[Continuation { context, tokens }])?
            .remove(0))
    }

    /// The natural logarithm of the probability of each token of each continuation, given its context and the tokens before.
    ///
    /// Consecutive continuations of equal contexts share the work on the context. Results do not depend on what
    /// else is asked for in the same call beyond the rounding of matrix products.
    ///
    /// Memory besides the results: for 512 tokens (on a GPU 2048) a workspace of about `(3 hidden + 5 intermediate) x 4` bytes each, keys and
    /// values of one layer, and 16 MiB of logits (at least 16 rows; on a GPU 256 MiB). A sequence that is longer takes the cache of a [`Session`] of its
    /// length.
    ///
    /// # Errors
    /// An empty context, a token beyond the vocabulary, a sequence longer than the model's context (its last token is not
    /// counted: nothing is predicted from it), logits that are not finite, a GPU that fails.
    pub fn continuation_log_likelihoods(
        &self,
        continuations: &[Continuation<'_>],
    ) -> Result<Vec<Vec<f32>>, LlamaError> {
        continuations
            .iter()
            .try_for_each(|continuation| self.check_continuation(continuation))?;
        let mut results: Vec<Vec<f32>> = continuations
            .iter()
            .map(|asked| Vec::with_capacity(asked.tokens.len()))
            .collect();
        let mut scorer = Scorer::new(self)?;
        let most = scorer.executor.batch();
        let mut batch = Batch::default();
        let mut first = 0;
        for group in continuations.chunk_by(|a, b| a.context == b.context) {
            let longest = group.iter().map(read_after).max().unwrap_or(0);
            if group[0].context.len() + longest > most {
                scorer.long(group, first, &mut results)?;
            } else {
                for (piece, at) in pieces(group, most) {
                    if !batch.tokens.is_empty() && batch.tokens.len() + tokens_in(piece) > most {
                        scorer.run(&mut batch, &mut results)?;
                    }
                    batch.add(piece, first + at);
                }
            }
            first += group.len();
        }
        scorer.run(&mut batch, &mut results)?;
        Ok(results)
    }

    fn check_continuation(&self, continuation: &Continuation<'_>) -> Result<(), LlamaError> {
        if continuation.context.is_empty() {
            return Err(LlamaError::Inference(InferenceProblem::NoTokens));
        }
        self.check_tokens(continuation.context)?;
        self.check_tokens(continuation.tokens)?;
        let (asked, limit) = (
            continuation.context.len() + read_after(continuation),
            self.context_limit(),
        );
        if asked > limit {
            return Err(LlamaError::Inference(InferenceProblem::ContextLength { asked, limit }));
        }
        Ok(())
    }
}

/// Tokens that are read behind the context: all but the last, from which nothing is predicted.
fn read_after(continuation: &Continuation<'_>) -> usize {
    continuation.tokens.len().saturating_sub(1)
}

/// Tokens that continuations of one context take in a batch.
fn tokens_in(piece: &[Continuation<'_>]) -> usize {
    piece[0].context.len() + piece.iter().map(read_after).sum::<usize>()
}

/// Cuts continuations of one context into pieces that fit a batch of `most` tokens, each with the number of its first.
fn pieces<'a, 'b>(group: &'a [Continuation<'b>], most: usize) -> Vec<(&'a [Continuation<'b>], usize)> {
    let mut pieces = Vec::new();
    let (mut begin, mut taken) = (0, group[0].context.len());
    for (i, continuation) in group.iter().enumerate() {
        if i > begin && taken + read_after(continuation) > most {
            pieces.push((&group[begin..i], begin));
            (begin, taken) = (i, group[0].context.len());
        }
        taken += read_after(continuation);
    }
    pieces.push((&group[begin..], begin));
    pieces
}

/// Sequences that run together.
#[derive(Debug, Default)]
struct Batch {
    tokens: Vec<u32>,
    spans: Vec<Span>,
    wanted: Vec<Wanted>,
    /// Positions of the cache that are taken, whole blocks.
    positions: usize,
    /// Length of the longest sequence.
    longest: usize,
}

impl Batch {
    /// Takes in continuations of one context; the first is number `first` of all.
    fn add(&mut self, piece: &[Continuation<'_>], first: usize) {
        let context = piece[0].context;
        let before = self.span(context, 0..0);
        let last = self.tokens.len() - 1;
        if let [only] = piece {
            // Alone it is one sequence with its context.
            let span = self.spans.last_mut().expect("just added");
            self.tokens.extend_from_slice(&only.tokens[..read_after(only)]);
            span.tokens.end = self.tokens.len();
            self.positions = (span.own + span.tokens.len()).next_multiple_of(LANES);
            self.longest = self.longest.max(span.tokens.len());
            self.want(only, first, last, last + 1);
            return;
        }
        for (i, continuation) in piece.iter().enumerate() {
            let behind = self.tokens.len();
            if read_after(continuation) > 0 {
                self.span(&continuation.tokens[..read_after(continuation)], before.clone());
            }
            self.want(continuation, first + i, last, behind);
        }
    }

    /// Adds tokens that see those at the positions `seen` of the cache; returns the positions of their own.
    fn span(&mut self, tokens: &[u32], seen: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let (begin, own) = (self.tokens.len(), self.positions);
        self.tokens.extend_from_slice(tokens);
        self.positions = (own + tokens.len()).next_multiple_of(LANES);
        self.longest = self.longest.max(seen.len() + tokens.len());
        // A span without tokens before it has its own at their place: that is one sequence from there on.
        let seen = if seen.is_empty() { own..own } else { seen };
        self.spans.push(Span {
            tokens: begin..self.tokens.len(),
            seen,
            own,
        });
        own..own + tokens.len()
    }

    /// Asks for a continuation's likelihoods: the first is predicted by row `last`, the others by those from `behind` on.
    fn want(&mut self, continuation: &Continuation<'_>, number: usize, last: usize, behind: usize) {
        let rows = std::iter::once(last).chain(behind..);
        let wanted = rows.zip(continuation.tokens).map(|(row, &token)| Wanted {
            target: Target { row, token },
            continuation: number,
        });
        self.wanted.extend(wanted);
    }
}

/// Runs batches, in memory that it keeps from one to the next.
struct Scorer<'m> {
    model: &'m InferenceModel,
    executor: Box<dyn Executor>,
}

impl<'m> Scorer<'m> {
    fn new(model: &'m InferenceModel) -> Result<Self, LlamaError> {
        let executor = model.executor(Room::OnePass)?;
        Ok(Self { model, executor })
    }

    /// Runs a batch, adds what is asked for to the results, and empties it.
    fn run(&mut self, batch: &mut Batch, results: &mut [Vec<f32>]) -> Result<(), LlamaError> {
        let Batch {
            tokens,
            spans,
            mut wanted,
            positions,
            longest,
        } = std::mem::take(batch);
        if wanted.is_empty() {
            return Ok(());
        }
        self.executor.make_room(positions)?;
        self.executor.forward(&tokens, &spans)?;
        // Each continuation's are in order, and stay so: the sort is stable.
        wanted.sort_by_key(|wanted| wanted.target.row);
        resolve(self.model, &mut *self.executor, &wanted, longest, results)
    }

    /// Runs continuations of one context that are too long for a batch.
    fn long(&mut self, group: &[Continuation<'_>], first: usize, results: &mut [Vec<f32>]) -> Result<(), LlamaError> {
        let (model, context) = (self.model, group[0].context);
        let longest = context.len() + group.iter().map(read_after).max().unwrap_or(0);
        let mut session = Session::new(model, longest, CacheType::F32)?;
        let want = |row, &token: &u32, continuation| Wanted {
            target: Target { row, token },
            continuation,
        };
        let mut last = 0;
        session.read_with(context, |_, rows| {
            last = rows - 1;
            Ok(())
        })?;
        // The first tokens of all are predicted by the context alone.
        let firsts: Vec<Wanted> = (first..)
            .zip(group)
            .filter_map(|(number, asked)| Some(want(last, asked.tokens.first()?, number)))
            .collect();
        resolve(model, session.executor(), &firsts, longest, results)?;
        for (continuation, number) in group.iter().zip(first..) {
            let read = read_after(continuation);
            if read == 0 {
                continue;
            }
            let mut targets = continuation.tokens[1..].iter();
            session.read_with(&continuation.tokens[..read], |executor, rows| {
                let wanted: Vec<Wanted> = (0..rows)
                    .zip(&mut targets)
                    .map(|(row, target)| want(row, target, number))
                    .collect();
                resolve(model, executor, &wanted, longest, results)
            })?;
            session.truncate(context.len());
        }
        Ok(())
    }
}

/// Adds the likelihoods that are asked for to the results, by the hidden states of an executor's last pass. `wanted` is sorted by row; `length` is for
/// the message of an error.
fn resolve(
    model: &InferenceModel,
    executor: &mut dyn Executor,
    wanted: &[Wanted],
    length: usize,
    results: &mut [Vec<f32>],
) -> Result<(), LlamaError> {
    let targets: Vec<Target> = wanted.iter().map(|wanted| wanted.target).collect();
    for (wanted, likelihood) in wanted.iter().zip(executor.log_likelihoods(&targets)?) {
        if !likelihood.is_finite() {
            return Err(model.explain_not_finite(length, likelihood));
        }
        results[wanted.continuation].push(likelihood);
    }
    Ok(())
}

/// ln(sum of e^l); NaN if one is NaN or infinite.
pub(super) fn log_sum_exp(logits: &[f32]) -> f32 {
    dispatch(
        #[inline(always)]
        || {
            let mut largest = [f32::NEG_INFINITY; LANES];
            for logits in logits.chunks(LANES) {
                for (largest, &logit) in largest.iter_mut().zip(logits) {
                    *largest = if logit > *largest { logit } else { *largest };
                }
            }
            let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
            // Sums of 64 numbers in f32, sums of those in f64: a vocabulary of 10^5 loses nothing.
            let mut total = 0.0f64;
            for block in logits.chunks(64 * LANES) {
                let mut sums = [0.0f32; LANES];
                let (whole, rest) = block.as_chunks::<LANES>();
                for logits in whole {
                    for i in 0..LANES {
                        sums[i] += exp(logits[i] - largest);
                    }
                }
                sums.iter_mut()
                    .zip(rest)
                    .for_each(|(sum, logit)| *sum += exp(logit - largest));
                total += f64::from(sums.iter().sum::<f32>());
            }
            (f64::from(largest) + total.ln()) as f32
        },
    )
}

#[cfg(test)]
mod tests;
