use serde_json::json;

use super::*;

/// A small valid configuration for tests.
pub(crate) fn tiny() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 16,
        hidden_size: 8,
        intermediate_size: 12,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 2,
        max_position_embeddings: 32,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        tie_word_embeddings: true,
        attention_bias: AttentionBias::None,
        query_key_norm: false,
        mlp_bias: false,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        extra: Map::new(),
    }
}

fn base() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 5,
        "num_attention_heads": 8,
    })
}

pub(super) fn read(value: &Value) -> Result<LlamaConfig, LlamaError> {
    LlamaConfig::from_json(Path::new("some/config.json"), &value.to_string())
}

/// `base` with keys set; null removes nothing, it is a value.
pub(super) fn with(changes: Value) -> Value {
    let mut value = base();
    value
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    value
}

fn message(changes: Value) -> String {
    read(&with(changes)).unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_transformers() {
    let config = read(&base()).unwrap();
    assert_eq!(
        (
            config.num_key_value_heads,
            config.head_dim,
            config.max_position_embeddings
        ),
        (8, 8, 2048)
    );
    assert_eq!(
        (config.rms_norm_eps, config.rope_theta, config.rope_scaling),
        (1e-6, 10_000.0, RopeScaling::None)
    );
    assert!(!config.tie_word_embeddings && !config.query_key_norm && !config.mlp_bias);
    assert_eq!(config.attention_bias, AttentionBias::None);
    assert_eq!((config.bos_token_id, config.eos_token_ids), (None, vec![]));
    // Null means absent.
    let nulls = json!({"head_dim": null, "num_key_value_heads": null, "rope_scaling": null, "eos_token_id": null});
    assert_eq!(read(&with(nulls)).unwrap().head_dim, 8);
}

#[test]
fn each_needed_key_is_named_when_missing() {
    for key in [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    ] {
        let mut value = base();
        value.as_object_mut().unwrap().remove(key);
        let message = read(&value).unwrap_err().to_string();
        assert!(
            message.contains("some/config.json") && message.contains(&format!("\"{key}\" is missing")),
            "{message}"
        );
    }
}

#[test]
fn wrong_types_and_ranges_name_key_and_value() {
    for (changes, parts) in [
        (json!({"vocab_size": "100"}), ["\"vocab_size\"", "a string"]),
        (json!({"vocab_size": -1}), ["\"vocab_size\"", "-1"]),
        (json!({"vocab_size": 1.5}), ["\"vocab_size\"", "1.5"]),
        (json!({"vocab_size": 0}), ["\"vocab_size\" is 0", "from 1"]),
        (
            json!({"hidden_size": 1u64 << 40}),
            ["\"hidden_size\" is 1099511627776", "from 1 to"],
        ),
        (
            json!({"num_hidden_layers": u64::MAX}),
            ["\"num_hidden_layers\" is 18446744073709551615", "from 1 to"],
        ),
        (
            json!({"num_attention_heads": 0}),
            ["\"num_attention_heads\" is 0", "hidden_size"],
        ),
        (
            json!({"num_attention_heads": 7}),
            ["\"num_attention_heads\" is 7", "head_dim"],
        ),
        (
            json!({"num_key_value_heads": 3}),
            ["\"num_key_value_heads\" is 3", "num_attention_heads"],
        ),
        (
            json!({"num_key_value_heads": 0}),
            ["\"num_key_value_heads\" is 0", "from 1"],
        ),
        (json!({"head_dim": 7}), ["\"head_dim\" is 7", "even"]),
        (
            json!({"rms_norm_eps": 0.0}),
            ["\"rms_norm_eps\" is 0", "greater than 0"],
        ),
        (json!({"rms_norm_eps": -1e-5}), ["\"rms_norm_eps\"", "greater than 0"]),
        (json!({"rope_theta": 0}), ["\"rope_theta\" is 0", "from 1"]),
        (json!({"rope_theta": 1e300}), ["\"rope_theta\"", "1e15"]),
        (
            json!({"tie_word_embeddings": 1}),
            ["\"tie_word_embeddings\" is 1", "true or false"],
        ),
        (
            json!({"bos_token_id": 100}),
            ["\"bos_token_id\" is 100", "vocab_size, 100"],
        ),
        (
            json!({"eos_token_id": [1, 4000]}),
            ["\"eos_token_id\" is 4000", "vocab_size"],
        ),
        (json!({"eos_token_id": [1, "x"]}), ["\"eos_token_id\"", "list"]),
    ] {
        let message = message(changes);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn sizes_whose_product_is_absurd_are_refused() {
    let message = message(json!({
        "hidden_size": 1 << 24, "intermediate_size": 1 << 24, "vocab_size": 1 << 24, "num_hidden_layers": 4096,
        "num_attention_heads": 1 << 16, "head_dim": 1 << 16,
    }));
    assert!(message.contains("parameters"), "{message}");
}

#[test]
fn what_is_not_a_plain_llama_is_named() {
    for (changes, parts) in [
        (json!({"model_type": "gemma2"}), ["\"model_type\"", "gemma2"]),
        (json!({"model_type": "qwen2_moe"}), ["\"model_type\"", "qwen3"]),
        // the architectures of the file are LLaMA's
        (
            json!({"model_type": "qwen2"}),
            ["\"architectures\"", "LlamaForCausalLM"],
        ),
        (
            json!({"model_type": "qwen2", "architectures": null, "use_sliding_window": true, "sliding_window": 0}),
            ["\"sliding_window\" is 0", "a number of tokens"],
        ),
        (json!({"model_type": 3}), ["\"model_type\"", "3"]),
        (
            json!({"architectures": ["LlamaForSequenceClassification"]}),
            ["\"architectures\"", "SequenceClassification"],
        ),
        (json!({"hidden_act": "gelu"}), ["\"hidden_act\"", "gelu"]),
        (
            json!({"quantization_config": {"bits": 4}}),
            ["\"quantization_config\"", "unquantized"],
        ),
        (json!({"num_local_experts": 8}), ["\"num_local_experts\" is 8", "dense"]),
        (json!({"sliding_window": "long"}), ["\"sliding_window\"", "long"]),
        (
            json!({"partial_rotary_factor": 0.5}),
            ["\"partial_rotary_factor\" is 0.5", "whole heads"],
        ),
        (
            json!({"layer_types": ["full_attention", "sliding_attention"]}),
            ["\"layer_types\"", "full attention"],
        ),
        (json!({"logit_scale": 0.0625}), ["\"logit_scale\"", "0.0625"]),
    ] {
        let message = message(changes);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let mut nameless = base();
    nameless
        .as_object_mut()
        .unwrap()
        .retain(|key, _| !["model_type", "architectures"].contains(&key.as_str()));
    assert!(read(&nameless)
        .unwrap_err()
        .to_string()
        .contains("\"model_type\" is missing"));
}

#[test]
fn features_that_are_off_do_no_harm() {
    let off = json!({
        "quantization_config": null, "num_local_experts": 1, "sliding_window": 4096, "max_position_embeddings": 4096,
        "layer_types": ["full_attention"], "is_encoder_decoder": false, "logit_scale": 1, "model_type": "mistral",
        "architectures": ["MistralForCausalLM"], "hidden_act": "swish",
    });
    read(&with(off)).unwrap();
    let unused = read(&with(json!({"sliding_window": 10, "use_sliding_window": false}))).unwrap();
    assert_eq!(unused.context_limit(), unused.max_position_embeddings);
}

/// Mistral 7B of before version 0.2, and what was made from it.
#[test]
fn a_window_is_the_longest_sequence() {
    let limit = |changes| {
        let config = read(&with(changes)).unwrap();
        let written = serde_json::to_value(&config).unwrap();
        assert_eq!(read(&written).unwrap(), config);
        (config.max_position_embeddings, config.context_limit())
    };
    let positions = |window: usize| json!({"max_position_embeddings": 32768, "sliding_window": window});
    assert_eq!(limit(positions(4096)), (32768, 4096));
    assert_eq!(limit(positions(65536)), (32768, 32768));
    let qwen = json!({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": true, "sliding_window": 99});
    assert_eq!(limit(qwen).1, 99);
}

#[test]
fn rope_scaling_is_read_in_both_spellings() {
    let numbers = json!({
        "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    });
    let llama3 = |extra: Value| {
        let mut value = numbers.clone();
        value
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        value
    };
    let want = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let old = json!({"rope_theta": 5e5, "rope_scaling": llama3(json!({"type": "llama3"}))});
    let newer = json!({"rope_parameters": llama3(json!({"rope_type": "llama3", "rope_theta": 5e5}))});
    let mut both = old.clone();
    both.as_object_mut().unwrap().extend(newer.as_object().unwrap().clone());
    for spelling in [old, newer, both] {
        let config = read(&with(spelling)).unwrap();
        assert_eq!((config.rope_theta, config.rope_scaling), (5e5, want));
        // Nothing of it is left among the unknown keys to contradict what is written.
        assert!(!config.extra.keys().any(|key| key.starts_with("rope")));
    }
    let linear = read(&with(json!({"rope_scaling": {"type": "linear", "factor": 2}}))).unwrap();
    assert_eq!(linear.rope_scaling, RopeScaling::Linear { factor: 2.0 });
    let default = read(&with(
        json!({"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}}),
    ))
    .unwrap();
    assert_eq!((default.rope_theta, default.rope_scaling), (7e4, RopeScaling::None));
}

#[test]
fn rope_scaling_that_is_not_supported_is_named() {
    let llama3 = |low: f64, high: f64, original: Value| {
        json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original}})
    };
    for (changes, parts) in [
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            ["\"rope_scaling.rope_type\"", "yarn"],
        ),
        (
            json!({"rope_scaling": {"type": "dynamic", "factor": 4.0}}),
            ["\"rope_scaling.rope_type\"", "dynamic"],
        ),
        (
            json!({"rope_scaling": {"rope_type": "linear"}}),
            ["\"rope_scaling.factor\" is missing", "number"],
        ),
        (
            json!({"rope_scaling": {"rope_type": "linear", "factor": 0}}),
            ["\"rope_scaling.factor\" is 0", "from 1"],
        ),
        (
            llama3(4.0, 4.0, 8192.into()),
            ["\"rope_scaling.high_freq_factor\" is 4", "greater than"],
        ),
        (
            llama3(0.0, 4.0, 8192.into()),
            ["\"rope_scaling.low_freq_factor\" is 0", "greater than 0"],
        ),
        (
            llama3(1.0, 4.0, Value::Null),
            ["\"rope_scaling.original_max_position_embeddings\"", "missing"],
        ),
        (
            llama3(1.0, 4.0, 0.into()),
            ["\"rope_scaling.original_max_position_embeddings\" is 0", "from 1"],
        ),
        (json!({"rope_scaling": "linear"}), ["\"rope_scaling\"", "a string"]),
        (
            json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}),
            ["\"rope_parameters.rope_theta\" is 500000", "10000"],
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}}),
            ["\"rope_parameters\"", "rope_scaling"],
        ),
        (
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
            ["\"rope_parameters.partial_rotary_factor\"", "0.5"],
        ),
    ] {
        let message = message(changes);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn unknown_keys_and_values_survive_a_round_trip() {
    let config = read(&with(json!({
        "torch_dtype": "bfloat16", "pad_token_id": 0, "my_own": {"deep": [1, 2.5]}, "eos_token_id": [2, 3],
        "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "bos_token_id": 1, "pretraining_tp": 1,
    })))
    .unwrap();
    let text = serde_json::to_string(&config).unwrap();
    let again: LlamaConfig = serde_json::from_str(&text).unwrap();
    assert_eq!(again, config);
    let map: Map<String, Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(map["my_own"], json!({"deep": [1, 2.5]}));
    assert_eq!(
        (&map["torch_dtype"], &map["eos_token_id"]),
        (&json!("bfloat16"), &json!([2, 3]))
    );
    assert_eq!(
        serde_json::to_string(&again).unwrap(),
        text,
        "the same content is the same text"
    );
}

#[test]
fn a_configuration_made_by_hand_is_written_readably() {
    let text = serde_json::to_string(&tiny()).unwrap();
    let again = LlamaConfig::from_json(Path::new("config.json"), &text).unwrap();
    assert_eq!(again, tiny());
    assert!(text.contains("LlamaForCausalLM") && text.contains("silu"));
}

#[test]
fn files_are_missing_huge_or_not_files() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(LlamaConfig::read(dir.path()), Err(LlamaError::Missing { .. })));
    let path = dir.path().join(CONFIG_FILE);
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(
        LlamaConfig::read(dir.path()),
        Err(LlamaError::TooLarge { .. })
    ));
    std::fs::write(&path, b"{\"a\": \"\xff\"}").unwrap();
    assert!(LlamaConfig::read(dir.path())
        .unwrap_err()
        .to_string()
        .contains("not UTF-8 from byte 7"));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(
        LlamaConfig::read(dir.path()),
        Err(LlamaError::NotAFile { .. })
    ));
}
