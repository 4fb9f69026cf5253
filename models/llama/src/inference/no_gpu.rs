//! A build without the feature `cuda`: no model is on a GPU.

use super::{
    executor::{Executor, Room},
    InferenceModel,
};
use crate::LlamaError;

/// There are none.
pub(super) enum Weights {}

impl Weights {
    pub(super) fn executor(&self, _: &InferenceModel, _: Room) -> Result<Box<dyn Executor>, LlamaError> {
        match *self {}
    }
}
