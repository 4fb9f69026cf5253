//! Log likelihoods of given tokens: what perplexity and multiple-choice tasks are computed from.
//!
//! Sequences run together in batches of some hundred tokens; those that begin with the same context share its computation
//! and its keys and values. Contexts that have a long beginning in common, as the solved examples in front of questions, are read
//! in a [`Session`], each from where it differs from the one before. Only the tokens that are asked for pass through the output
//! projection, in chunks: the logits of a whole batch are never held.
#![allow(non_snake_case)]

use edkm_kernels::{elementwise::exp, lanes::dispatch};

use super::{
    cache::{CacheType, Span, LANES},
    executor::{Executor, Room, Target},
    InferenceModel, InferenceProblem, Session,
};
use crate::LlamaError;

/// Tokens that contexts must have in common for their keys and values to be kept: each context is then read by itself, and a pass over few tokens
/// uses the weights less well than one over a batch of them.
const LEAST_COMMON: usize = 48;

/// Tokens of a context and its continuations that run together in a session, and positions that continuations take at once.
const PIECE: usize = 256;

/// A session has room for a multiple of so many positions, so that somewhat longer contexts need no new one.
const ROOM: usize = 256;

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
    /// Memory: that of a [`Scorer`].
    ///
    /// # Errors
    /// As [`continuation_log_likelihoods`](Self::continuation_log_likelihoods).
    pub fn log_likelihoods(&self, tokens: &[u32]) -> Result<Vec<f32>, LlamaError> {
        let (context, tokens) = tokens.split_at(tokens.len().min(1));
        Ok(self
            .continuation_log_likelihoods(&[Continuation { context, tokens }])?
            .remove(0))
    }

    /// [`Scorer::log_likelihoods`] of a new [`Scorer`].
    ///
    /// # Errors
    /// Those of both.
    pub fn continuation_log_likelihoods(
        &self,
        continuations: &[Continuation<'_>],
    ) -> Result<Vec<Vec<f32>>, LlamaError> {
        self.scorer()?.log_likelihoods(continuations)
    }

    /// What computes likelihoods by this model.
    ///
    /// # Errors
    /// Those of the GPU that the model is on.
    pub fn scorer(&self) -> Result<Scorer, LlamaError> {
        Ok(Scorer {
            model: self.clone(),
            executor: self.executor(Room::OnePass)?,
            session: None,
        })
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

/// Positions of a cache that are taken behind the context, whole blocks.
fn positions_after(continuation: &Continuation<'_>) -> usize {
    read_after(continuation).next_multiple_of(LANES)
}

/// Tokens that continuations of one context take in a batch.
fn tokens_in(piece: &[Continuation<'_>]) -> usize {
    piece[0].context.len() + piece.iter().map(read_after).sum::<usize>()
}

/// Whether of the `of` tokens of a context so many are in common with another that it pays to keep their keys and values.
fn pays(common: usize, of: usize) -> bool {
    common >= LEAST_COMMON && 2 * common >= of
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Cuts continuations of one context into pieces of at most `most`, where each takes `size` and all of a piece `context` together: each piece with the
/// number of its first. One that is larger is a piece of its own.
fn pieces<'a, 'b>(
    group: &'a [Continuation<'b>],
    context: usize,
    size: fn(&Continuation<'_>) -> usize,
    most: usize,
) -> Vec<(&'a [Continuation<'b>], usize)> {
    let mut pieces = Vec::new();
    let (mut begin, mut taken) = (0, context);
    for (i, continuation) in group.iter().enumerate() {
        if i > begin && taken + size(continuation) > most {
            pieces.push((&group[begin..i], begin));
            (begin, taken) = (i, context);
        }
        taken += size(continuation);
    }
    pieces.push((&group[begin..], begin));
    pieces
}

/// Sequences that run together.
#[derive(Debug, Default)]
struct Batch {
    /// Tokens of the context that were read before: their keys and values lie at the beginning of the cache.
    read: usize,
    tokens: Vec<u32>,
    spans: Vec<Span>,
    wanted: Vec<Wanted>,
    /// Positions of the cache that are taken, whole blocks.
    positions: usize,
    /// Length of the longest sequence.
    longest: usize,
}

impl Batch {
    /// An empty batch of one context, of which the first `read` tokens were read before.
    fn behind(read: usize) -> Self {
        Self {
            read,
            positions: read,
            ..Self::default()
        }
    }

    /// Takes in continuations of one context; the first is number `first` of all.
    fn add(&mut self, piece: &[Continuation<'_>], first: usize) {
        let own = self.span(&piece[0].context[self.read..], 0..self.read);
        let before = if self.read == 0 { own } else { 0..own.end };
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

/// Computes likelihoods, in memory that it keeps from one call to the next. So are the keys and values of the context that a [`Session`] has read last:
/// the next one that begins like it is read from where it differs.
///
/// Memory: for 512 tokens (on a GPU 2048) a workspace of about `(3 hidden + 5 intermediate) x 4` bytes each, keys and values of one layer, and
/// 16 MiB of logits (at least 128 rows; as much again while a packed projection runs; on a GPU 256 MiB). Sequences that are longer, and contexts that share a long beginning, take a
/// [`Session`] besides, one for all of them: keys and values of all layers, for the longest of them and up to 512 positions more.
#[derive(Debug)]
pub struct Scorer {
    model: InferenceModel,
    executor: Box<dyn Executor>,
    session: Option<Session>,
}

impl Scorer {
    /// The natural logarithm of the probability of each token of each continuation, given its context and the tokens before.
    ///
    /// Consecutive continuations of equal contexts share the work on the context, and consecutive contexts that on a beginning of at least 48 tokens
    /// and half of their length. Results do not depend on what else is asked for, in the same call or before, beyond the rounding
    /// of matrix products.
    ///
    /// # Errors
    /// An empty context, a token beyond the vocabulary, a sequence longer than the model's context (its last token is not
    /// counted: nothing is predicted from it), logits that are not finite, a GPU that fails.
    pub fn log_likelihoods(&mut self, continuations: &[Continuation<'_>]) -> Result<Vec<Vec<f32>>, LlamaError> {
        continuations
            .iter()
            .try_for_each(|continuation| self.model.check_continuation(continuation))?;
        let mut results: Vec<Vec<f32>> = continuations
            .iter()
            .map(|asked| Vec::with_capacity(asked.tokens.len()))
            .collect();
        let most = self.executor.batch();
        let groups: Vec<&[Continuation<'_>]> = continuations.chunk_by(|a, b| a.context == b.context).collect();
        let in_session = self.in_session(&groups);
        let of_session = groups.iter().zip(&in_session).filter(|(_, in_session)| **in_session);
        let longest = of_session.map(|(group, _)| positions(group)).max().unwrap_or(0);
        let mut batch = Batch::default();
        let mut first = 0;
        for (group, in_session) in groups.into_iter().zip(in_session) {
            if in_session {
                self.read(group, first, longest, &mut results)?;
            } else {
                for (piece, at) in pieces(group, group[0].context.len(), read_after, most) {
                    if !batch.tokens.is_empty() && batch.tokens.len() + tokens_in(piece) > most {
                        self.run(&mut batch, &mut results)?;
                    }
                    batch.add(piece, first + at);
                }
            }
            first += group.len();
        }
        self.run(&mut batch, &mut results)?;
        Ok(results)
    }

    /// Which groups are read in the session: those that are too long for a batch, and those whose context has much in common with the one before or behind.
    fn in_session(&self, groups: &[&[Continuation<'_>]]) -> Vec<bool> {
        let most = self.executor.batch();
        let mut before = self.session.as_ref().map_or(&[][..], Session::tokens);
        let mut in_session = Vec::with_capacity(groups.len());
        for (i, group) in groups.iter().enumerate() {
            let context = group[0].context;
            let is_long = context.len() + group.iter().map(read_after).max().unwrap_or(0) > most;
            let has_before = pays(common_prefix(before, context), context.len());
            let behind = groups.get(i + 1).map_or(&[][..], |group| group[0].context);
            in_session.push(is_long || has_before || pays(common_prefix(context, behind), behind.len()));
            before = context;
        }
        in_session
    }

    /// Runs a batch, adds what is asked for to the results, and empties it.
    fn run(&mut self, batch: &mut Batch, results: &mut [Vec<f32>]) -> Result<(), LlamaError> {
        let mut batch = std::mem::take(batch);
        if batch.wanted.is_empty() {
            return Ok(());
        }
        self.executor.make_room(batch.positions)?;
        self.executor.forward(&batch.tokens, &batch.spans)?;
        // Each continuation's are in order, and stay so: the sort is stable.
        batch.wanted.sort_by_key(|wanted| wanted.target.row);
        resolve(&self.model, &mut *self.executor, &batch.wanted, batch.longest, results)
    }

    /// Reads continuations of one context in the session, which has so many positions at least.
    fn read(
        &mut self,
        group: &[Continuation<'_>],
        first: usize,
        positions: usize,
        results: &mut [Vec<f32>],
    ) -> Result<(), LlamaError> {
        let Self { model, session, .. } = self;
        if session.as_ref().is_none_or(|session| session.context() < positions) {
            // what it holds is freed first
            *session = None;
            *session = Some(Session::with_positions(
                model,
                positions.next_multiple_of(ROOM),
                CacheType::F32,
            )?);
        }
        let session = session.as_mut().expect("just made");
        let (context, most) = (group[0].context, session.executor().batch().min(PIECE));
        for (piece, at) in pieces(group, 1, positions_after, most) {
            let kept = session.keep_common_prefix(context);
            if let [only] = piece {
                read_alone(model, session, only, kept, first + at, results)?;
                continue;
            }
            // The last tokens of the context run together with the continuations, as many as fit.
            let together = most - piece.iter().map(read_after).sum::<usize>();
            let read = context.len().saturating_sub(together).max(kept);
            if read > kept {
                session.read_with(&context[kept..read], |_, _| Ok(()))?;
            }
            let mut batch = Batch::behind(read);
            batch.add(piece, first + at);
            session.read_spans(&batch.tokens, &batch.spans)?;
            batch.wanted.sort_by_key(|wanted| wanted.target.row);
            resolve(model, session.executor(), &batch.wanted, batch.longest, results)?;
        }
        Ok(())
    }
}

/// Positions of a session's cache that continuations of one context take: whole blocks for the context, and behind it for those that run together.
fn positions(group: &[Continuation<'_>]) -> usize {
    let together = group.iter().map(positions_after).sum::<usize>().min(PIECE);
    let longest = group.iter().map(positions_after).max().unwrap_or(0);
    group[0].context.len().next_multiple_of(LANES) + together.max(longest)
}

/// Reads a sequence of any length from position `kept` on, which is in the context. The continuation is number `number` of all.
fn read_alone(
    model: &InferenceModel,
    session: &mut Session,
    asked: &Continuation<'_>,
    kept: usize,
    number: usize,
    results: &mut [Vec<f32>],
) -> Result<(), LlamaError> {
    let sequence = [asked.context, &asked.tokens[..read_after(asked)]].concat();
    let predicts = asked.context.len() - 1;
    let mut begin = kept;
    session.read_with(&sequence[kept..], |executor, rows| {
        let first = predicts.max(begin);
        let wanted: Vec<Wanted> = (first..begin + rows)
            .zip(asked.tokens.iter().skip(first - predicts))
            .map(|(position, &token)| Wanted {
                target: Target {
                    row: position - begin,
                    token,
                },
                continuation: number,
            })
            .collect();
        begin += rows;
        resolve(model, executor, &wanted, sequence.len(), results)
    })
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
    if wanted.is_empty() {
        return Ok(());
    }
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
