//! What runs a model's forward passes: the CPU, or a GPU that the model was put on.

use std::fmt;

use super::{
    cache::{CacheType, Span},
    cpu::OnCpu,
    model::Place,
    InferenceModel,
};
use crate::LlamaError;

/// A token whose log likelihood is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// The row of hidden states that predicts it.
    pub(super) row: usize,
    /// The token.
    pub(super) token: u32,
}

/// Room for keys and values.
#[derive(Clone, Copy, Debug)]
pub(super) enum Room {
    /// Of all layers, for tokens that are read one after another.
    Session {
        /// Positions of each layer.
        capacity: usize,
        /// The type of the numbers.
        cache_type: CacheType,
    },
    /// Of one layer, which every layer uses after the one before it: for tokens that are read all at once.
    OnePass,
}

/// Runs tokens through a model and holds their keys and values.
pub(super) trait Executor: fmt::Debug + Send {
    /// Tokens that run together well: the weights are then read seldom enough for arithmetic to be the limit, and what is worked in is not large.
    fn batch(&self) -> usize;

    /// Runs checked tokens through all layers. Their hidden states stay until the next pass.
    ///
    /// `spans` cover the tokens in order; they are within the cache.
    fn forward(&mut self, tokens: &[u32], spans: &[Span]) -> Result<(), LlamaError>;

    /// Logits behind the last token of the last pass, `[vocabulary]`.
    fn last_logits(&mut self, logits: &mut [f32]) -> Result<(), LlamaError>;

    /// Log likelihoods of tokens by the hidden states of the last pass. Targets are sorted by row.
    fn log_likelihoods(&mut self, targets: &[Target]) -> Result<Vec<f32>, LlamaError>;

    /// Makes sure that a cache for [`Room::OnePass`] has so many positions; what it held is lost.
    fn make_room(&mut self, positions: usize) -> Result<(), LlamaError>;

    /// Gives back what was worked in, since the next pass is likely a smaller one.
    fn give_back(&mut self);

    /// Bytes of all keys and values.
    fn cache_bytes(&self) -> usize;
}

impl InferenceModel {
    /// An executor where the model is.
    pub(super) fn executor(&self, room: Room) -> Result<Box<dyn Executor>, LlamaError> {
        match &self.place {
            Place::Cpu => Ok(Box::new(OnCpu::new(self.clone(), room))),
            Place::Gpu(weights) => weights.executor(self, room),
        }
    }
}
