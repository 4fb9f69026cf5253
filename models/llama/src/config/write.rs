//! From a [`LlamaConfig`] back to the keys of `config.json`.

use serde_json::{json, Map, Value};

use super::{architecture::Architecture, rope_scaling, AttentionBias, LlamaConfig};

/// Keys that say the same in every file of ours of an architecture.
pub(super) fn fixed(architecture: Architecture) -> [(&'static str, Value); 3] {
    let [classes, kind] = architecture.keys();
    [classes, kind, ("hidden_act", json!("silu"))]
}

/// Everything that was read and not understood, then what was understood in its canonical spelling.
pub(super) fn map(config: LlamaConfig) -> Map<String, Value> {
    // a configuration that no architecture has is not valid
    let architecture = Architecture::of(&config).unwrap_or(Architecture::Llama);
    let mut map = config.extra;
    for key in ["architectures", "model_type"] {
        // one that was read and changed by hand may be another's now
        if map.get(key).is_some_and(|value| !architecture.is_named_by(key, value)) {
            map.remove(key);
        }
    }
    for (key, value) in fixed(architecture) {
        map.entry(key).or_insert(value);
    }
    let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
    set("vocab_size", config.vocab_size.into());
    set("hidden_size", config.hidden_size.into());
    set("intermediate_size", config.intermediate_size.into());
    set("num_hidden_layers", config.num_hidden_layers.into());
    set("num_attention_heads", config.num_attention_heads.into());
    set("num_key_value_heads", config.num_key_value_heads.into());
    set("head_dim", config.head_dim.into());
    set("max_position_embeddings", config.max_position_embeddings.into());
    set("rms_norm_eps", config.rms_norm_eps.into());
    set("rope_theta", config.rope_theta.into());
    set(
        "rope_scaling",
        rope_scaling::to_json(&config.rope_scaling).map_or(Value::Null, Value::from),
    );
    set("tie_word_embeddings", config.tie_word_embeddings.into());
    set("attention_bias", (config.attention_bias != AttentionBias::None).into());
    set("mlp_bias", config.mlp_bias.into());
    set("bos_token_id", config.bos_token_id.map_or(Value::Null, Value::from));
    set(
        "eos_token_id",
        match config.eos_token_ids[..] {
            [] => Value::Null,
            [one] => one.into(),
            _ => config.eos_token_ids.into(),
        },
    );
    map
}
