//! Bytes of the optimizer's moments.

use dfdx_edkm::optim::MomentFormat;
use edkm_llama::config::LlamaConfig;
use edkm_llama::names::parameters;

/// Of a whole model.
pub(crate) fn moment_bytes(config: &LlamaConfig, format: MomentFormat) -> u64 {
    parameters(config)
        .map(|parameter| format.bytes(parameter.shape.iter().product()))
        .fold(0, u64::saturating_add)
}
