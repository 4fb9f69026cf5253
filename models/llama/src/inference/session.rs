//! A conversation with a model: tokens go in, logits of the next one come out.

use std::sync::Arc;

use edkm_kernels::rotary;

use super::{
    cache::{CacheType, KvCache, Span},
    forward::Workspace,
    InferenceModel, InferenceProblem,
};
use crate::LlamaError;

/// Tokens of a prompt that run together. Larger batches use the weights more often for each time that they are read, but
/// past some hundreds arithmetic is the limit; the workspace grows with them.
const BATCH: usize = 256;

/// Tokens that a model has read, with its keys and values, ready for the next.
///
/// Memory: the [`KvCache`], the logits (4 bytes for each token of the vocabulary), and a workspace of about
/// `(3 hidden + 5 intermediate) x 4` bytes for each token that runs at once: 1, or up to 256 while a prompt is read.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m InferenceModel,
    cache: KvCache,
    tokens: Vec<u32>,
    rotary: Arc<rotary::Table>,
    workspace: Workspace,
    normed: Vec<f32>,
    logits: Vec<f32>,
}

impl<'m> Session<'m> {
    /// An empty session for up to `context` tokens.
    ///
    /// # Errors
    /// [`InferenceProblem::ContextLength`] if the model cannot have such a context.
    pub fn new(model: &'m InferenceModel, context: usize, cache_type: CacheType) -> Result<Self, LlamaError> {
        let limit = model.context_limit();
        if context == 0 || context > limit {
            return Err(LlamaError::Inference(InferenceProblem::ContextLength {
                asked: context,
                limit,
            }));
        }
        Ok(Self {
            model,
            cache: KvCache::new(model.config(), context, cache_type),
            tokens: Vec::new(),
            rotary: model.rotary(context),
            workspace: Workspace::default(),
            normed: Vec::new(),
            logits: vec![0.0; model.config().vocab_size],
        })
    }

    /// Reads tokens behind those that were read before, in batches, and returns the logits of the token that follows.
    ///
    /// # Errors
    /// If there are no tokens, one is beyond the vocabulary, the context has no room for them, or the logits are not
    /// finite. The session is then as it was before.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32], LlamaError> {
        self.read(tokens)?;
        let hidden = self.model.config().hidden_size;
        let last = &self.workspace.x_NH[self.workspace.x_NH.len() - hidden..];
        let (model, normed, logits) = (self.model, &mut self.normed, &mut self.logits);
        model.in_pool(tokens.len(), || model.project(last, normed, logits));
        if tokens.len() > 1 {
            // The next is likely a single token: the memory of the batch is given back.
            self.workspace = Workspace::default();
        }
        match self.logits.iter().find(|logit| !logit.is_finite()) {
            None => Ok(&self.logits),
            Some(&value) => {
                let count = self.tokens.len();
                self.truncate(count - tokens.len());
                Err(self.model.explain_not_finite(count, value))
            }
        }
    }

    /// Reads one token and returns the logits of the next. Allocates nothing of a token's size after the first call.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill).
    pub fn decode(&mut self, token: u32) -> Result<&[f32], LlamaError> {
        self.prefill(&[token])
    }

    /// Runs tokens through the layers and keeps their keys and values; the hidden states of the last batch stay in the
    /// workspace.
    fn read(&mut self, tokens: &[u32]) -> Result<(), LlamaError> {
        self.check(tokens)?;
        for batch in tokens.chunks(BATCH) {
            self.read_batch(batch);
        }
        Ok(())
    }

    /// Reads tokens and calls `each` with the hidden states of each batch, before the last norm: `[tokens, hidden]`.
    pub(super) fn read_with(
        &mut self,
        tokens: &[u32],
        mut each: impl FnMut(&[f32]) -> Result<(), LlamaError>,
    ) -> Result<(), LlamaError> {
        self.check(tokens)?;
        for batch in tokens.chunks(BATCH) {
            self.read_batch(batch);
            each(&self.workspace.x_NH)?;
        }
        Ok(())
    }

    fn check(&self, tokens: &[u32]) -> Result<(), LlamaError> {
        let (held, new, capacity) = (self.tokens.len(), tokens.len(), self.cache.capacity());
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

    fn read_batch(&mut self, tokens: &[u32]) {
        let Self {
            model,
            cache,
            rotary,
            workspace,
            ..
        } = self;
        let held = self.tokens.len();
        let span = [Span {
            tokens: 0..tokens.len(),
            seen: 0..held,
            own: held,
        }];
        model.in_pool(tokens.len(), || model.forward(tokens, &span, rotary, cache, workspace));
        self.tokens.extend_from_slice(tokens);
    }

    /// Forgets all tokens behind the first `len`.
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
        self.cache.capacity() - self.tokens.len()
    }

    /// The keys and values, for their size and type.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// The model.
    pub fn model(&self) -> &'m InferenceModel {
        self.model
    }

    /// Logits behind the last token that was read; zeros before the first.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }
}

#[cfg(test)]
mod tests;
