//! `config.json`: the sizes and options of a LLaMA-family model.
//!
//! Reading is strict: a key that would change what the model computes and is not supported is an error that names it,
//! every size is checked before anything is allocated from it, and keys that are merely unknown are kept and written back.

mod architecture;
mod foreign;
mod parse;
mod problem;
mod rope_scaling;
#[cfg(test)]
pub(crate) mod tests;
mod validate;
mod write;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::{problem::ConfigProblem, rope_scaling::RopeScaling};
use crate::{
    checkpoint::{write_json, FloatDtype},
    files, json, LlamaError,
};

/// The name of the file in a model folder.
pub const CONFIG_FILE: &str = "config.json";

/// The most that is read of a `config.json`, in bytes. Those of published models have some kilobytes.
const CONFIG_LIMIT: u64 = 1 << 20;

/// Which of attention's projections have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttentionBias {
    /// None, as in LLaMA and Mistral.
    #[default]
    None,
    /// Queries, keys and values, as in Qwen 2 and 2.5.
    QueryKeyValue,
    /// All four.
    All,
}

/// The configuration of a LLaMA-family model, with the names that `config.json` gives its keys.
///
/// Values that come from [`read`](Self::read) or serde are valid; one that is put together by hand can be checked by
/// [`validate`](Self::validate).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct LlamaConfig {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width between the two products of the feed-forward part.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; a divisor of the number of query heads, and equal to it unless the file says otherwise.
    pub num_key_value_heads: usize,
    /// Coordinates of a head; `hidden_size / num_attention_heads` unless the file says otherwise.
    pub head_dim: usize,
    /// The longest sequence, in tokens, that the model is made for.
    pub max_position_embeddings: usize,
    /// What RMSNorm adds to the mean square.
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding's frequencies.
    pub rope_theta: f64,
    /// Change of these frequencies for longer contexts.
    pub rope_scaling: RopeScaling,
    /// Whether the output projection is the embedding's matrix.
    pub tie_word_embeddings: bool,
    /// Which of the query, key, value and output projections have a bias.
    pub attention_bias: AttentionBias,
    /// Whether each head of queries and keys is normalised before it is turned, as in Qwen 3.
    pub query_key_norm: bool,
    /// Whether the three feed-forward projections have a bias.
    pub mlp_bias: bool,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Everything else that the file holds, kept for writing.
    pub extra: Map<String, Value>,
}

impl LlamaConfig {
    /// Reads `config.json` from a model folder.
    ///
    /// # Errors
    /// [`LlamaError::Missing`] where there is none, [`LlamaError::Io`], and those of [`from_json`](Self::from_json).
    pub fn read(model_dir: impl AsRef<Path>) -> Result<Self, LlamaError> {
        let path = model_dir.as_ref().join(CONFIG_FILE);
        if !files::exists(&path)? {
            let remedy = "give a model folder in Hugging Face layout, with config.json and model.safetensors";
            return Err(LlamaError::Missing { path, remedy });
        }
        Self::from_json(&path, &json::read_text(&path, CONFIG_LIMIT)?)
    }

    /// Reads a configuration from the text of a `config.json`; errors name `path`.
    ///
    /// # Errors
    /// A text that is no JSON object; a key that is missing, of another type or out of range; what the model does not compute (key and value are named).
    pub fn from_json(path: &Path, text: &str) -> Result<Self, LlamaError> {
        parse::config(path, json::parse_object(path, text)?)
    }

    /// Writes `config.json` into a model folder, replacing one that is there in one step.
    ///
    /// # Errors
    /// A configuration that [is none](Self::validate); [`LlamaError::Io`] if the system does not write. The file that was there is then as it was.
    pub fn write(&self, model_dir: &Path) -> Result<(), LlamaError> {
        let path = model_dir.join(CONFIG_FILE);
        self.validate(&path)?;
        write_json(&path, self).map(|_bytes| ())
    }

    /// The longest sequence that is computed: the model's positions, or its window where tokens attend to fewer. Up to there a window changes nothing.
    pub fn context_limit(&self) -> usize {
        let window = architecture::Architecture::of(self)
            .and_then(|architecture| foreign::sliding_window(&self.extra, architecture)?.as_u64());
        let window = window.map_or(usize::MAX, |tokens| usize::try_from(tokens).unwrap_or(usize::MAX));
        self.max_position_embeddings.min(window)
    }

    /// Says in which type the weights beside this configuration are stored.
    pub fn set_stored_dtype(&mut self, dtype: FloatDtype) {
        // Newer files say `dtype`; all readers know the older name.
        let key = if self.extra.contains_key("dtype") {
            "dtype"
        } else {
            "torch_dtype"
        };
        self.extra.insert(key.to_owned(), dtype.torch_name().into());
    }

    /// The width of all query heads together: rows of the query projection.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// The width of all key heads together: rows of the key and of the value projection.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Number of parameters; a tied output projection is not counted again.
    pub fn parameter_count(&self) -> u64 {
        crate::names::parameters(self)
            .map(|p| p.shape.iter().map(|&n| n as u64).product::<u64>())
            .sum()
    }
}

impl TryFrom<Map<String, Value>> for LlamaConfig {
    type Error = LlamaError;

    fn try_from(map: Map<String, Value>) -> Result<Self, LlamaError> {
        parse::config(Path::new(CONFIG_FILE), map)
    }
}

impl From<LlamaConfig> for Map<String, Value> {
    fn from(config: LlamaConfig) -> Self {
        write::map(config)
    }
}
