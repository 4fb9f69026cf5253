//! Keys of other architectures.
//!
//! Programs that write `config.json` put features into it that change what a model computes. Ignoring one would run a
//! different model without a word, so each that is known is refused unless its value says that it is not in use.

use serde_json::Value;

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

/// Refuses a configuration of something else than a plain LLaMA.
pub(super) fn refuse(source: &Source<'_>, keys: &Keys, max_position_embeddings: usize) -> Result<(), LlamaError> {
    for (key, neutral, supported) in FEATURES {
        if let Some(value) = keys.get(*key).filter(|value| !neutral.holds(value)) {
            return Err(source.unsupported(key, value, supported));
        }
    }
    // A window that no sequence exceeds is none.
    let off = keys.get("use_sliding_window") == Some(&Value::Bool(false));
    let window = keys.get("sliding_window").filter(|window| !window.is_null() && !off);
    match window {
        Some(window) if window.as_u64().is_none_or(|w| w < max_position_embeddings as u64) => {
            Err(source.unsupported("sliding_window", window, "attention to all earlier tokens"))
        }
        _ => Ok(()),
    }
}

/// Refuses other architectures by name.
pub(super) fn refuse_architecture(source: &Source<'_>, keys: &Keys) -> Result<(), LlamaError> {
    // Mistral without a sliding window is the same model under another name.
    const TYPES: [&str; 2] = ["llama", "mistral"];
    const CLASSES: [&str; 3] = ["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"];

    let kind = keys.get("model_type").filter(|v| !v.is_null());
    let classes = keys.get("architectures").filter(|v| !v.is_null());
    if let Some(kind) = kind.filter(|kind| !kind.as_str().is_some_and(|name| TYPES.contains(&name))) {
        return Err(source.unsupported("model_type", kind, "llama, and mistral without a sliding window"));
    }
    if let Some(classes) = classes {
        let known = |v: &Value| v.as_str().is_some_and(|name| CLASSES.contains(&name));
        if !classes.as_array().is_some_and(|list| list.iter().any(known)) {
            return Err(source.unsupported("architectures", classes, "LlamaForCausalLM"));
        }
    }
    if kind.is_none() && classes.is_none() {
        return Err(source.missing("model_type", "\"llama\""));
    }
    match keys.get("hidden_act").and_then(Value::as_str) {
        Some("silu" | "swish") => Ok(()),
        None if keys.get("hidden_act").is_none_or(Value::is_null) => Ok(()),
        _ => Err(source.unsupported("hidden_act", &keys["hidden_act"], "silu")),
    }
}
