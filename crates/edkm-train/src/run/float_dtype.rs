//! The type of weights that are not clustered.

use edkm_llama::checkpoint::{Checkpoint, Dtype, FloatDtype};
use edkm_llama::names::Kind;

/// The type that weights which are not clustered are written in: the one they came in.
pub(crate) fn float_dtype(checkpoint: &Checkpoint) -> FloatDtype {
    let norm = Kind::FinalNorm.name(0);
    match checkpoint.info(&norm).map(|info| info.dtype) {
        Some(Dtype::F16) => FloatDtype::F16,
        Some(Dtype::BF16) => FloatDtype::Bf16,
        _ => FloatDtype::F32,
    }
}
