//! Configurations of published models by name, for benchmarks with random weights.

use std::path::Path;

use edkm_llama::config::LlamaConfig;

use crate::TrainError;

/// Names and what the models' `config.json` say of their sizes.
const NAMED: [(&str, &str); 5] = [
    (
        "tinyllama-1.1b",
        r#"{"model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
            "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": false}"#,
    ),
    (
        "llama-7b",
        r#"{"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0, "tie_word_embeddings": false}"#,
    ),
    (
        "smollm-135m",
        r#"{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": true}"#,
    ),
    (
        "llama-3.2-1b",
        r#"{"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, "tie_word_embeddings": true}"#,
    ),
    (
        "qwen3-0.6b",
        r#"{"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0, "tie_word_embeddings": true}"#,
    ),
];

/// A configuration by name (`llama-7b`, `tinyllama-1.1b`, `smollm-135m`, `llama-3.2-1b`, `qwen3-0.6b`), or that of a `config.json` file or of the folder that holds one.
///
/// # Errors
/// Something that is neither; a configuration that cannot be used.
pub fn configuration(name_or_path: &str) -> Result<LlamaConfig, TrainError> {
    if let Some((name, text)) = NAMED.iter().find(|(name, _)| *name == name_or_path) {
        return Ok(LlamaConfig::from_json(Path::new(name), text)?);
    }
    let path = Path::new(name_or_path);
    if !path.exists() {
        return Err(TrainError::Setting {
            setting: "--config",
            value: name_or_path.to_owned(),
            expected:
                "llama-7b, tinyllama-1.1b, smollm-135m, llama-3.2-1b, qwen3-0.6b, a config.json, or a folder with one",
        });
    }
    let folder = match path.is_dir() {
        true => path,
        false if path.file_name().is_some_and(|name| name == "config.json") => path.parent().unwrap_or(Path::new("")),
        false => {
            let text = std::fs::read_to_string(path).map_err(TrainError::io("read", path))?;
            return Ok(LlamaConfig::from_json(path, &text)?);
        }
    };
    Ok(LlamaConfig::read(folder)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_configurations_have_the_published_number_of_parameters() {
        assert_eq!(
            configuration("tinyllama-1.1b").unwrap().parameter_count(),
            1_100_048_384
        );
        assert_eq!(configuration("llama-7b").unwrap().parameter_count(), 6_738_415_616);
        assert_eq!(configuration("smollm-135m").unwrap().parameter_count(), 134_515_008);
        assert_eq!(configuration("llama-3.2-1b").unwrap().parameter_count(), 1_235_814_400);
        assert_eq!(configuration("qwen3-0.6b").unwrap().parameter_count(), 596_049_920);
    }

    #[test]
    fn an_unknown_name_is_said_with_what_there_is() {
        let message = configuration("llama-9").unwrap_err().to_string();
        assert!(
            message.contains("llama-9") && message.contains("smollm-135m"),
            "{message}"
        );
    }
}
