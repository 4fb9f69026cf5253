//! Keys of other architectures.
//!
//! Programs that write `config.json` put features into it that change what a model computes. Ignoring one would run a
//! different model without a word, so each that is known is refused unless its value says that it is not in use.

use serde_json::Value;

use super::architecture::Architecture;
use super::parse::{Keys, Source};
use crate::LlamaError;

/// Values with which a key changes nothing.
enum Neutral {
    /// Only null.
    Null,
    /// False, too.
    Off,
    /// Zero or one expert: a plain feed-forward part.
    NoExperts,
    /// One.
    One,
    /// A list of nothing but this.
    All(&'static str),
}

impl Neutral {
    fn holds(&self, value: &Value) -> bool {
        value.is_null()
            || match self {
                Self::Null => false,
                Self::Off => value == &Value::Bool(false),
                Self::NoExperts => matches!(value.as_u64(), Some(0 | 1)),
                Self::One => value.as_f64() == Some(1.0),
                Self::All(word) => value
                    .as_array()
                    .is_some_and(|list| list.iter().all(|v| v.as_str() == Some(word))),
            }
    }
}

const FEATURES: &[(&str, Neutral, &str)] = &[
    (
        "quantization_config",
        Neutral::Null,
        "weights in f32, f16 or bf16; take the unquantized checkpoint",
    ),
    (
        "compression_config",
        Neutral::Null,
        "weights in f32, f16 or bf16; take the uncompressed checkpoint",
    ),
    ("num_experts", Neutral::NoExperts, "dense models"),
    ("num_local_experts", Neutral::NoExperts, "dense models"),
    ("n_routed_experts", Neutral::NoExperts, "dense models"),
    (
        "layer_types",
        Neutral::All("full_attention"),
        "full attention in every layer",
    ),
    (
        "partial_rotary_factor",
        Neutral::One,
        "the rotary embedding on whole heads",
    ),
    ("rotary_pct", Neutral::One, "the rotary embedding on whole heads"),
    ("clip_qkv", Neutral::Null, "projections that are not clipped"),
    ("qk_norm", Neutral::Off, "queries and keys that are not normalised"),
    ("use_qk_norm", Neutral::Off, "queries and keys that are not normalised"),
    ("attn_logit_softcapping", Neutral::Null, "scores that are not capped"),
    ("final_logit_softcapping", Neutral::Null, "logits that are not capped"),
    ("logit_scale", Neutral::One, "logits that are not scaled"),
    ("logits_scaling", Neutral::One, "logits that are not scaled"),
    ("embedding_multiplier", Neutral::One, "embeddings that are not scaled"),
    ("residual_multiplier", Neutral::One, "residuals that are not scaled"),
    (
        "attention_multiplier",
        Neutral::Null,
        "scores scaled by 1 / sqrt(head_dim)",
    ),
    (
        "cross_attention_layers",
        Neutral::Null,
        "decoders without cross-attention",
    ),
    ("add_cross_attention", Neutral::Off, "decoders without cross-attention"),
    ("is_encoder_decoder", Neutral::Off, "decoders"),
];

/// Refuses features that change what a model of this architecture computes and are not supported.
pub(super) fn refuse(source: &Source<'_>, keys: &Keys, architecture: Architecture) -> Result<(), LlamaError> {
    for (key, neutral, supported) in FEATURES {
        if let Some(value) = keys.get(*key).filter(|value| !neutral.holds(value)) {
            return Err(source.unsupported(key, value, supported));
        }
    }
    match sliding_window(keys, architecture) {
        Some(window) if window.as_u64().is_none_or(|tokens| tokens == 0) => {
            Err(source.unsupported("sliding_window", window, "null, or a number of tokens"))
        }
        _ => Ok(()),
    }
}

/// How many tokens a token attends to, if the file limits that. Qwen's files hold a window that is not in use unless they say so.
pub(super) fn sliding_window(keys: &Keys, architecture: Architecture) -> Option<&Value> {
    let off = match keys.get("use_sliding_window") {
        Some(Value::Bool(on)) => !on,
        _ => architecture != Architecture::Llama,
    };
    keys.get("sliding_window").filter(|window| !window.is_null() && !off)
}

/// Refuses other activations.
pub(super) fn refuse_activation(source: &Source<'_>, keys: &Keys) -> Result<(), LlamaError> {
    match keys.get("hidden_act").and_then(Value::as_str) {
        Some("silu" | "swish") => Ok(()),
        None if keys.get("hidden_act").is_none_or(Value::is_null) => Ok(()),
        _ => Err(source.unsupported("hidden_act", &keys["hidden_act"], "silu")),
    }
}
