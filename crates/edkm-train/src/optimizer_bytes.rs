//! Bytes of what the optimizer keeps, and of what it is given.

use dfdx_edkm::optim::MomentFormat;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::largest_part;
use edkm_llama::names::parameters;

use crate::trainer::Update;

/// The moments of a whole model.
pub(crate) fn moment_bytes(config: &LlamaConfig, format: MomentFormat) -> u64 {
    parameters(config)
        .map(|parameter| format.bytes(parameter.shape.iter().product()))
        .fold(0, u64::saturating_add)
}

/// The gradients of parameters that are there at once when the last of them is whole.
pub(crate) fn gradient_bytes(config: &LlamaConfig, update: Update) -> u64 {
    let numbers = match update {
        Update::AfterBackward => config.parameter_count(),
        Update::InBackward => largest_part(config),
    };
    numbers.saturating_mul(size_of::<f32>() as u64)
}
