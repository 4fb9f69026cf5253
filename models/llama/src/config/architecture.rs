//! The architectures that are a LLaMA but for biases and norms in attention, and their names.

#[cfg(test)]
mod tests;

use serde_json::{json, Value};

use super::parse::{Keys, Source};
use super::{AttentionBias, LlamaConfig};
use crate::LlamaError;

/// A model family as `config.json` names it. What it means for the model is in the other fields of [`LlamaConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    /// And Mistral, which without a sliding window is the same model under another name.
    Llama,
    /// Biases on queries, keys and values (arXiv 2309.16609, section 2.3); Qwen 2 and 2.5.
    Qwen2,
    /// Queries and keys that are normalised by head (arXiv 2505.09388, section 2).
    Qwen3,
}

/// Architectures by `model_type` and by the class in `architectures`; the first of each is what is written.
const NAMES: [(Architecture, &str, &str); 5] = [
    (Architecture::Llama, "llama", "LlamaForCausalLM"),
    (Architecture::Llama, "llama", "LLaMAForCausalLM"),
    (Architecture::Llama, "mistral", "MistralForCausalLM"),
    (Architecture::Qwen2, "qwen2", "Qwen2ForCausalLM"),
    (Architecture::Qwen3, "qwen3", "Qwen3ForCausalLM"),
];

impl Architecture {
    /// That of a file; others are refused by name.
    pub(super) fn read(source: &Source<'_>, keys: &Keys) -> Result<Self, LlamaError> {
        let given = |key: &str| keys.get(key).filter(|value| !value.is_null());
        let kind = match given("model_type") {
            None => None,
            Some(name) => Some(
                Self::of_type(name)
                    .ok_or_else(|| source.unsupported("model_type", name, "llama, mistral, qwen2 and qwen3"))?,
            ),
        };
        let class = match given("architectures") {
            None => None,
            Some(classes) => Some(Self::of_classes(classes).ok_or_else(|| {
                source.unsupported(
                    "architectures",
                    classes,
                    "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM",
                )
            })?),
        };
        match (kind, class) {
            (Some(kind), Some(class)) if kind != class => {
                Err(source.unsupported("architectures", &keys["architectures"], "the model_type's own class"))
            }
            (Some(one), _) | (None, Some(one)) => Ok(one),
            (None, None) => Err(source.missing("model_type", "\"llama\", \"mistral\", \"qwen2\" or \"qwen3\"")),
        }
    }

    /// The one that has this configuration's biases and norms, if any has.
    pub(super) fn of(config: &LlamaConfig) -> Option<Self> {
        match (config.attention_bias, config.query_key_norm) {
            (AttentionBias::None | AttentionBias::All, false) => Some(Self::Llama),
            (AttentionBias::QueryKeyValue, false) => Some(Self::Qwen2),
            (AttentionBias::None | AttentionBias::All, true) => Some(Self::Qwen3),
            (AttentionBias::QueryKeyValue, true) => None,
        }
    }

    /// Whether a `model_type` or a list of `architectures` names it.
    pub(super) fn is_named_by(self, key: &str, value: &Value) -> bool {
        let named = match key {
            "model_type" => Self::of_type(value),
            _ => Self::of_classes(value),
        };
        named == Some(self)
    }

    /// `architectures` and `model_type` as they are written.
    pub(super) fn keys(self) -> [(&'static str, Value); 2] {
        let (_, kind, class) = NAMES.iter().find(|(one, ..)| *one == self).expect("each has a name");
        [("architectures", json!([class])), ("model_type", json!(kind))]
    }

    fn of_type(name: &Value) -> Option<Self> {
        let name = name.as_str()?;
        NAMES.iter().find(|(_, kind, _)| *kind == name).map(|(one, ..)| *one)
    }

    fn of_classes(classes: &Value) -> Option<Self> {
        let classes = classes.as_array()?;
        classes.iter().find_map(|class| {
            let class = class.as_str()?;
            NAMES.iter().find(|(.., name)| *name == class).map(|(one, ..)| *one)
        })
    }
}
