//! Forward passes on a GPU, from packed weights in its memory.
//!
//! The weights are copied once, when the model is put there. What runs is what the CPU runs (see [`forward`](super::forward)), by the kernels of
//! `edkm-cuda`; matrices are multiplied by few tokens from their stored form and unpacked one after the other for many
//! (`edkm_cuda::matrix`). The host waits once a pass, for logits or likelihoods.

mod device;
mod executor;
mod weights;
mod workspace;

use std::sync::Arc;

use edkm_cuda::attention::MOST_HEAD_DIM;
use edkm_cuda::cached_attention::MOST_SHARING;
pub use edkm_cuda::driver::Precision;

use super::{
    executor::{Executor, Room},
    model::Place,
    InferenceModel, InferenceProblem,
};
use crate::LlamaError;
use device::Device;
use executor::OnGpu;
pub(super) use weights::Weights;

impl InferenceModel {
    /// Puts the model on a GPU, counted from 0: sessions and likelihoods are computed there from now on. `precision` is how that GPU multiplies matrices by
    /// many tokens, in the whole process; few tokens are multiplied in f32 in any case.
    ///
    /// Memory of the GPU: palettized matrices stay packed, palettes and factors of rows as f32 (4 bytes a number); others are kept in the type of the file
    /// (2 or 4 bytes a number), norms and biases as f32. Beside it what a [`Session`](super::Session) says, and where more than a few tokens run at once up
    /// to 128 MiB in which matrices are unpacked.
    ///
    /// # Errors
    /// A GPU that there is not, or that has too little memory; heads that there are no kernels for.
    pub fn on_gpu(mut self, ordinal: usize, precision: Precision) -> Result<Self, LlamaError> {
        let config = self.config();
        let sharing = config.num_attention_heads / config.num_key_value_heads;
        if config.head_dim > MOST_HEAD_DIM || sharing > MOST_SHARING {
            return Err(LlamaError::Inference(InferenceProblem::HeadsOnGpu {
                dim: config.head_dim,
                most_dim: MOST_HEAD_DIM,
                sharing,
                most_sharing: MOST_SHARING,
            }));
        }
        let device = Device::open(ordinal)?;
        device.gpu().set_precision(precision);
        self.place = Place::Gpu(Arc::new(Weights::upload(device, &self)?));
        Ok(self)
    }
}

impl Weights {
    /// Runs `model`, whose weights these are.
    pub(super) fn executor(
        self: &Arc<Self>,
        model: &InferenceModel,
        room: Room,
    ) -> Result<Box<dyn Executor>, LlamaError> {
        Ok(Box::new(OnGpu::new(model.clone(), self.clone(), room)?))
    }
}

#[cfg(test)]
mod tests;
