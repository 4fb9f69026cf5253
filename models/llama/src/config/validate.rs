//! Limits within which every size that follows from a configuration can be computed.

use std::path::Path;

use super::{architecture::Architecture, parse::Source, rope_scaling, ConfigProblem, LlamaConfig};
use crate::{names, LlamaError};

/// Largest values, one or two orders of magnitude beyond published models; with them no product of two sizes overflows.
const MAX_WIDTH: u64 = 1 << 24;
const MAX_HEADS: u64 = 1 << 16;
const MAX_LAYERS: u64 = 1 << 12;
pub(super) const MAX_POSITIONS: u64 = 1 << 30;

/// The most parameters: some fifty times the largest published model, and as f32 still a `usize` of bytes.
const MAX_PARAMETERS: u128 = 1 << 44;

impl LlamaConfig {
    /// Checks sizes, divisibility and numbers; errors name `path`.
    pub fn validate(&self, path: &Path) -> Result<(), LlamaError> {
        let source = Source { path, within: None };
        for (key, value, limit) in [
            ("vocab_size", self.vocab_size, MAX_WIDTH),
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_HEADS),
            ("num_key_value_heads", self.num_key_value_heads, MAX_HEADS),
            ("head_dim", self.head_dim, MAX_HEADS),
            ("max_position_embeddings", self.max_position_embeddings, MAX_POSITIONS),
        ] {
            if value == 0 || value as u64 > limit {
                return Err(source.out_of_range(key, value, format!("from 1 to {limit}")));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let problem = ConfigProblem::Contradiction {
                got: self.num_key_value_heads.to_string(),
                other: "num_attention_heads",
                relation: format!("is {}, not a multiple", self.num_attention_heads),
            };
            return Err(source.error("num_key_value_heads", problem));
        }
        if Architecture::of(self).is_none() {
            let problem = ConfigProblem::Contradiction {
                got: "on queries, keys and values alone".to_owned(),
                other: "query_key_norm",
                relation: "is true, which no architecture has together".to_owned(),
            };
            return Err(source.error("attention_bias", problem));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(source.out_of_range("head_dim", self.head_dim, "even: the rotary embedding turns pairs"));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(source.out_of_range("rms_norm_eps", self.rms_norm_eps, "greater than 0 and less than 1"));
        }
        if !(1.0..=1e15).contains(&self.rope_theta) {
            return Err(source.out_of_range("rope_theta", self.rope_theta, "from 1 to 1e15"));
        }
        rope_scaling::check(
            &Source {
                path,
                within: Some("rope_scaling"),
            },
            &self.rope_scaling,
        )?;
        self.validate_tokens(&source)?;
        self.validate_parameter_count(&source)
    }

    fn validate_tokens(&self, source: &Source<'_>) -> Result<(), LlamaError> {
        let begin = self.bos_token_id.iter().map(|id| ("bos_token_id", id));
        let end = self.eos_token_ids.iter().map(|id| ("eos_token_id", id));
        match begin.chain(end).find(|(_, &id)| id as usize >= self.vocab_size) {
            None => Ok(()),
            Some((key, id)) => Err(source.out_of_range(key, id, format!("less than vocab_size, {}", self.vocab_size))),
        }
    }

    /// Sizes that pass one by one can still make a model that no machine holds, or a number that overflows.
    fn validate_parameter_count(&self, source: &Source<'_>) -> Result<(), LlamaError> {
        let one_layer = Self {
            num_hidden_layers: 1,
            ..self.clone()
        };
        let (mut layer, mut rest) = (0, 0);
        for parameter in names::parameters(&one_layer) {
            let count: u128 = parameter.shape.iter().map(|&n| n as u128).product();
            *(if parameter.layer.is_some() {
                &mut layer
            } else {
                &mut rest
            }) += count;
        }
        let count = rest + layer * self.num_hidden_layers as u128;
        if count <= MAX_PARAMETERS {
            return Ok(());
        }
        let problem = ConfigProblem::Contradiction {
            got: self.hidden_size.to_string(),
            other: "num_hidden_layers",
            relation: format!("and the other sizes make {count} parameters of it, more than {MAX_PARAMETERS}"),
        };
        Err(source.error("hidden_size", problem))
    }
}
