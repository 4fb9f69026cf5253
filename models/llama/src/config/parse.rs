//! From the keys of a JSON object to a [`LlamaConfig`].

use std::path::Path;

use serde_json::{Map, Value};

use super::{architecture::Architecture, foreign, rope_scaling, write, AttentionBias, ConfigProblem, LlamaConfig};
use crate::{error::shortened, json, LlamaError};

/// The keys that have not been taken yet.
pub(super) type Keys = Map<String, Value>;

/// Where keys come from, for messages.
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    /// The key of the object that the keys are in, if it is not the whole file.
    pub(super) within: Option<&'static str>,
}

pub(super) fn config(path: &Path, mut keys: Keys) -> Result<LlamaConfig, LlamaError> {
    let source = Source { path, within: None };
    let architecture = Architecture::read(&source, &keys)?;
    foreign::refuse_activation(&source, &keys)?;

    let hidden_size = source.size(&mut keys, "hidden_size")?;
    let num_attention_heads = source.size(&mut keys, "num_attention_heads")?;
    let head_dim = match source.take_size(&mut keys, "head_dim")? {
        Some(head_dim) => head_dim,
        None if architecture == Architecture::Qwen3 => 128,
        None if num_attention_heads == 0 || hidden_size % num_attention_heads != 0 => {
            let problem = ConfigProblem::Contradiction {
                got: num_attention_heads.to_string(),
                other: "hidden_size",
                relation: format!("is {hidden_size}, not a multiple; give \"head_dim\""),
            };
            return Err(source.error("num_attention_heads", problem));
        }
        None => hidden_size / num_attention_heads,
    };
    // Defaults are those of transformers' LlamaConfig, which old files rely on. Qwen's files give these numbers.
    let max_position_embeddings = source.take_size(&mut keys, "max_position_embeddings")?.unwrap_or(2048);
    foreign::refuse(&source, &keys, architecture)?;
    let (rope_theta, rope_scaling) = rope_scaling::take(&source, &mut keys)?;
    for (key, value) in write::fixed(architecture) {
        if keys.get(key) == Some(&value) {
            keys.remove(key);
        }
    }

    let config = LlamaConfig {
        vocab_size: source.size(&mut keys, "vocab_size")?,
        hidden_size,
        intermediate_size: source.size(&mut keys, "intermediate_size")?,
        num_hidden_layers: source.size(&mut keys, "num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: source
            .take_size(&mut keys, "num_key_value_heads")?
            .unwrap_or(num_attention_heads),
        head_dim,
        max_position_embeddings,
        rms_norm_eps: source.take_number(&mut keys, "rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta,
        rope_scaling,
        tie_word_embeddings: source.take_switch(&mut keys, "tie_word_embeddings")?,
        attention_bias: match (source.take_switch(&mut keys, "attention_bias")?, architecture) {
            // its files do not say so
            (_, Architecture::Qwen2) => AttentionBias::QueryKeyValue,
            (true, _) => AttentionBias::All,
            (false, _) => AttentionBias::None,
        },
        query_key_norm: architecture == Architecture::Qwen3,
        mlp_bias: source.take_switch(&mut keys, "mlp_bias")?,
        bos_token_id: source.take_token(&mut keys, "bos_token_id")?,
        eos_token_ids: source.take_tokens(&mut keys, "eos_token_id")?,
        extra: keys,
    };
    config.validate(path)?;
    Ok(config)
}

impl Source<'_> {
    pub(super) fn error(&self, key: &str, problem: ConfigProblem) -> LlamaError {
        let key = match self.within {
            Some(outer) => format!("{outer}.{}", shortened(key)),
            None => shortened(key),
        };
        LlamaError::Config {
            path: self.path.to_owned(),
            key,
            problem,
        }
    }

    pub(super) fn missing(&self, key: &str, expected: &'static str) -> LlamaError {
        self.error(key, ConfigProblem::Missing { expected })
    }

    pub(super) fn unsupported(&self, key: &str, got: &Value, supported: &'static str) -> LlamaError {
        self.error(
            key,
            ConfigProblem::Unsupported {
                got: shortened(got),
                supported,
            },
        )
    }

    pub(super) fn out_of_range(&self, key: &str, got: impl ToString, allowed: impl Into<String>) -> LlamaError {
        self.error(
            key,
            ConfigProblem::OutOfRange {
                got: got.to_string(),
                allowed: allowed.into(),
            },
        )
    }

    fn wrong_type(&self, key: &str, expected: &'static str, got: &Value) -> LlamaError {
        self.error(
            key,
            ConfigProblem::WrongType {
                expected,
                got: described(got),
            },
        )
    }

    /// A key that is absent or null is `None`.
    fn take<T>(
        &self,
        keys: &mut Keys,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, LlamaError> {
        match keys.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(&value)
                .map(Some)
                .ok_or_else(|| self.wrong_type(key, expected, &value)),
        }
    }

    pub(super) fn take_size(&self, keys: &mut Keys, key: &str) -> Result<Option<usize>, LlamaError> {
        self.take(keys, key, WHOLE, |v| v.as_u64().and_then(|n| n.try_into().ok()))
    }

    pub(super) fn size(&self, keys: &mut Keys, key: &str) -> Result<usize, LlamaError> {
        self.take_size(keys, key)?.ok_or_else(|| self.missing(key, WHOLE))
    }

    pub(super) fn take_number(&self, keys: &mut Keys, key: &str) -> Result<Option<f64>, LlamaError> {
        self.take(keys, key, NUMBER, Value::as_f64)
    }

    pub(super) fn number(&self, keys: &mut Keys, key: &str) -> Result<f64, LlamaError> {
        self.take_number(keys, key)?.ok_or_else(|| self.missing(key, NUMBER))
    }

    pub(super) fn take_object(&self, keys: &mut Keys, key: &str) -> Result<Option<Keys>, LlamaError> {
        self.take(keys, key, "an object", |v| v.as_object().cloned())
    }

    fn take_switch(&self, keys: &mut Keys, key: &str) -> Result<bool, LlamaError> {
        Ok(self.take(keys, key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    fn take_token(&self, keys: &mut Keys, key: &str) -> Result<Option<u32>, LlamaError> {
        self.take(keys, key, "a token number", token)
    }

    fn take_tokens(&self, keys: &mut Keys, key: &str) -> Result<Vec<u32>, LlamaError> {
        let read = |v: &Value| match v {
            Value::Array(list) => list.iter().map(token).collect(),
            one => token(one).map(|t| vec![t]),
        };
        Ok(self
            .take(keys, key, "a token number or a list of them", read)?
            .unwrap_or_default())
    }
}

const WHOLE: &str = "a whole number";
const NUMBER: &str = "a number";

fn token(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}

/// The value with its kind, for messages about kinds.
fn described(value: &Value) -> String {
    format!("{} ({})", shortened(value), json::kind(value))
}
