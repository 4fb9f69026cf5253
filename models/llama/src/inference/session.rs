//! A conversation with a model: tokens go in, logits of the next one come out.

use super::{
    cache::{CacheType, Span},
    executor::{Executor, Room},
    InferenceModel, InferenceProblem,
};
use crate::LlamaError;

/// Tokens that a model has read, with its keys and values, ready for the next. It holds a clone of the model, which is the same weights.
///
/// Memory: keys and values, `layers x key/value heads x ceil16(context) x (D + ceil16(D)) x (4 or 2)` bytes, D being the numbers in a head and
/// ceil16 rounding up to a multiple of 16 (on the CPU the system hands it out as positions are filled; on a GPU nothing is rounded up); the logits (4
/// bytes for each token of the vocabulary); and a workspace of about `(3 hidden + 5 intermediate) x 4` bytes for each token that runs at once: 1, or up
/// to 256 (on a GPU 512) while a prompt is read.
#[derive(Debug)]
pub struct Session {
    model: InferenceModel,
    executor: Box<dyn Executor>,
    capacity: usize,
    tokens: Vec<u32>,
    logits: Vec<f32>,
    /// Those that are being computed, which may fail.
    next_logits: Vec<f32>,
}

impl Session {
    /// An empty session for up to `context` tokens.
    ///
    /// # Errors
    /// [`InferenceProblem::ContextLength`] if the model cannot have such a context; too little memory on the GPU that the model is on.
    pub fn new(model: &InferenceModel, context: usize, cache_type: CacheType) -> Result<Self, LlamaError> {
        let limit = model.context_limit();
        if context == 0 || context > limit {
            return Err(LlamaError::Inference(InferenceProblem::ContextLength {
                asked: context,
                limit,
            }));
        }
        Self::with_positions(model, context, cache_type)
    }

    /// [`new`](Self::new) with room for more than the model's context, for spans that see the same tokens, see [`read_spans`](Self::read_spans).
    pub(super) fn with_positions(
        model: &InferenceModel,
        capacity: usize,
        cache_type: CacheType,
    ) -> Result<Self, LlamaError> {
        Ok(Self {
            model: model.clone(),
            executor: model.executor(Room::Session { capacity, cache_type })?,
            capacity,
            tokens: Vec::new(),
            logits: vec![0.0; model.config().vocab_size],
            next_logits: vec![0.0; model.config().vocab_size],
        })
    }

    /// Reads tokens behind those that were read before, in batches, and returns the logits of the token that follows.
    ///
    /// # Errors
    /// If there are no tokens, one is beyond the vocabulary, the context has no room for them, the logits are not
    /// finite, or the GPU that the model is on fails. The session is then as it was before.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32], LlamaError> {
        self.read_with(tokens, |_, _| Ok(()))?;
        let computed = self.executor.last_logits(&mut self.next_logits);
        if tokens.len() > 1 {
            // The next is likely a single token: the memory of the batch is given back.
            self.executor.give_back();
        }
        let checked = computed.and_then(|()| match self.next_logits.iter().find(|logit| !logit.is_finite()) {
            None => Ok(()),
            Some(&value) => Err(self.model.explain_not_finite(self.tokens.len(), value)),
        });
        if let Err(error) = checked {
            self.truncate(self.tokens.len() - tokens.len());
            return Err(error);
        }
        std::mem::swap(&mut self.logits, &mut self.next_logits);
        Ok(&self.logits)
    }

    /// Reads one token and returns the logits of the next. Allocates nothing of a token's size after the first call.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill).
    pub fn decode(&mut self, token: u32) -> Result<&[f32], LlamaError> {
        self.prefill(&[token])
    }

    /// Runs tokens through the layers and keeps their keys and values. `each` is called behind each batch, with the tokens of it, while their hidden
    /// states are there.
    pub(super) fn read_with(
        &mut self,
        tokens: &[u32],
        mut each: impl FnMut(&mut dyn Executor, usize) -> Result<(), LlamaError>,
    ) -> Result<(), LlamaError> {
        self.check(tokens)?;
        let before = self.tokens.len();
        for batch in tokens.chunks(self.executor.batch()) {
            let done = self
                .read_batch(batch)
                .and_then(|()| each(&mut *self.executor, batch.len()));
            if let Err(error) = done {
                self.truncate(before);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Runs tokens of several spans, within the room that there is. The first span follows what was read before, and is kept; the others are not,
    /// but their hidden states are there until the next pass.
    pub(super) fn read_spans(&mut self, tokens: &[u32], spans: &[Span]) -> Result<(), LlamaError> {
        self.executor.forward(tokens, spans)?;
        self.tokens.extend_from_slice(&tokens[spans[0].tokens.clone()]);
        Ok(())
    }

    /// What runs the model, with the hidden states of the last batch.
    pub(super) fn executor(&mut self) -> &mut dyn Executor {
        &mut *self.executor
    }

    fn check(&self, tokens: &[u32]) -> Result<(), LlamaError> {
        let (held, new, capacity) = (self.tokens.len(), tokens.len(), self.capacity);
        if new == 0 {
            return Err(LlamaError::Inference(InferenceProblem::NoTokens));
        }
        self.model.check_tokens(tokens)?;
        if new > capacity - held {
            let limit = self.model.context_limit();
            return Err(LlamaError::Inference(InferenceProblem::ContextFull {
                held,
                new,
                capacity,
                limit,
            }));
        }
        Ok(())
    }

    fn read_batch(&mut self, tokens: &[u32]) -> Result<(), LlamaError> {
        let held = self.tokens.len();
        let span = Span {
            tokens: 0..tokens.len(),
            seen: 0..held,
            own: held,
        };
        self.read_spans(tokens, &[span])
    }

    /// Forgets all tokens behind the first `len`. The logits stay those of the token that was read last.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
    }

    /// Keeps what the session's tokens and `tokens` have in common at the beginning and forgets the rest; returns how many
    /// of `tokens` need not be read again. At least one is left to read, so that there are logits behind it.
    ///
    /// A chat calls this with the whole conversation and then reads what is new.
    pub fn keep_common_prefix(&mut self, tokens: &[u32]) -> usize {
        let readable = tokens.len().saturating_sub(1);
        let common = self
            .tokens
            .iter()
            .zip(&tokens[..readable])
            .take_while(|(a, b)| a == b)
            .count();
        self.truncate(common);
        common
    }

    /// The tokens that were read.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens that there is still room for.
    pub fn room(&self) -> usize {
        self.capacity - self.tokens.len()
    }

    /// Tokens of the context: those that were read and those that there is room for.
    pub fn context(&self) -> usize {
        self.capacity
    }

    /// Bytes of the keys and values, as many as the context has room for.
    pub fn cache_bytes(&self) -> usize {
        self.executor.cache_bytes()
    }

    /// The model.
    pub fn model(&self) -> &InferenceModel {
        &self.model
    }

    /// Logits behind the token that was read last, forgotten or not; zeros before the first.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }
}

#[cfg(test)]
mod tests;
