use std::path::Path;

use serde_json::{json, Value};

use crate::config::tests::{read, tiny, with};
use crate::config::{AttentionBias, LlamaConfig};

/// The keys of the published files of Qwen 2.5 0.5B and Qwen 3 0.6B, in which biases and norms are not mentioned.
#[test]
fn qwen_files_are_read_and_written_back() {
    let qwen2 = json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 21, "num_attention_heads": 14, "num_hidden_layers": 24,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "sliding_window": 32768, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "use_cache": true, "use_sliding_window": false, "vocab_size": 151936,
    });
    let qwen3 = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
        "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "num_attention_heads": 16,
        "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 1e6,
        "sliding_window": null, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936,
    });
    for (file, bias, norm, head_dim, parameters) in [
        (&qwen2, AttentionBias::QueryKeyValue, false, 64, 494_032_768),
        (&qwen3, AttentionBias::None, true, 128, 596_049_920),
    ] {
        let config = read(file).unwrap();
        assert_eq!((config.attention_bias, config.query_key_norm), (bias, norm));
        assert_eq!((config.head_dim, config.parameter_count()), (head_dim, parameters));
        let written = serde_json::to_value(&config).unwrap();
        assert_eq!(read(&written).unwrap(), config);
        for (key, value) in file.as_object().unwrap() {
            assert_eq!(&written[key], value, "{key}");
        }
    }
    // a window is not in use unless the file says so, and heads have 128 coordinates, as in transformers
    let mut silent = qwen3;
    let keys = silent.as_object_mut().unwrap();
    keys.retain(|key, _| !["use_sliding_window", "head_dim"].contains(&key.as_str()));
    keys["sliding_window"] = 4096.into();
    assert_eq!(read(&silent).unwrap().head_dim, 128);
}

/// A file says what the fields say, whatever was read.
#[test]
fn biases_and_norms_name_the_architecture_that_is_written() {
    let written = |config: &LlamaConfig| serde_json::to_value(config).unwrap();
    let names = |value: &Value| [value["model_type"].clone(), value["architectures"][0].clone()];
    let mistral = read(&with(
        json!({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}),
    ))
    .unwrap();
    assert_eq!(names(&written(&mistral)), ["mistral", "MistralForCausalLM"]);
    for (bias, norm, want) in [
        (AttentionBias::All, false, ["mistral", "MistralForCausalLM"]),
        (AttentionBias::QueryKeyValue, false, ["qwen2", "Qwen2ForCausalLM"]),
        (AttentionBias::None, true, ["qwen3", "Qwen3ForCausalLM"]),
        (AttentionBias::All, true, ["qwen3", "Qwen3ForCausalLM"]),
    ] {
        let config = LlamaConfig {
            attention_bias: bias,
            query_key_norm: norm,
            ..mistral.clone()
        };
        config.validate(Path::new("config.json")).unwrap();
        assert_eq!(names(&written(&config)), want);
        let again = read(&written(&config)).unwrap();
        assert_eq!((again.attention_bias, again.query_key_norm), (bias, norm));
    }
    let neither = LlamaConfig {
        attention_bias: AttentionBias::QueryKeyValue,
        query_key_norm: true,
        ..tiny()
    };
    let message = neither.validate(Path::new("config.json")).unwrap_err().to_string();
    assert!(
        message.contains("\"attention_bias\"") && message.contains("\"query_key_norm\""),
        "{message}"
    );
}
