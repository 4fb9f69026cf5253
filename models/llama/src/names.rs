//! The parameters of a LLaMA: one table of names, roles and shapes.
//!
//! Loading, saving, clustering by name pattern and the optimizer all go by this table, so that a name is spelled once.

use crate::config::{AttentionBias, LlamaConfig};

/// What a parameter is to the model, and so how it is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The embedding, `[vocab_size, hidden_size]`: clustered if bits are given for embeddings.
    Embedding,
    /// The output projection, `[vocab_size, hidden_size]`: treated as the embedding is.
    Head,
    /// The weight of a linear layer inside the decoder, `[out, in]`: clustered.
    Linear,
    /// A bias of such a layer, `[out]`: never clustered.
    Bias,
    /// The scale of an RMSNorm, `[hidden_size]`, or `[head_dim]` for the norms of heads: never clustered, and without weight decay.
    Norm,
}

/// Which parameter, apart from the layer it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // The names are those of the checkpoint's own paths.
pub enum Kind {
    EmbedTokens,
    InputNorm,
    Query,
    QueryBias,
    Key,
    KeyBias,
    Value,
    ValueBias,
    Output,
    OutputBias,
    QueryNorm,
    KeyNorm,
    PostAttentionNorm,
    Gate,
    GateBias,
    Up,
    UpBias,
    Down,
    DownBias,
    FinalNorm,
    Head,
}

/// One row of the table. Names with a layer are given after the layer's number.
struct Row {
    kind: Kind,
    place: Place,
    name: &'static str,
    role: Role,
    /// Axes of the parameter, outermost first.
    shape: fn(&LlamaConfig) -> Vec<usize>,
    present: fn(&LlamaConfig) -> bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    BeforeLayers,
    Layer,
    AfterLayers,
}

const LAYER_PREFIX: &str = "model.layers.";

const fn row(
    place: Place,
    kind: Kind,
    name: &'static str,
    role: Role,
    shape: fn(&LlamaConfig) -> Vec<usize>,
    present: fn(&LlamaConfig) -> bool,
) -> Row {
    Row {
        kind,
        place,
        name,
        role,
        shape,
        present,
    }
}

const ALWAYS: fn(&LlamaConfig) -> bool = |_| true;
const QUERY_KEY_VALUE_BIAS: fn(&LlamaConfig) -> bool = |c| c.attention_bias != AttentionBias::None;
const OUTPUT_BIAS: fn(&LlamaConfig) -> bool = |c| c.attention_bias == AttentionBias::All;
const QUERY_KEY_NORM: fn(&LlamaConfig) -> bool = |c| c.query_key_norm;
const MLP_BIAS: fn(&LlamaConfig) -> bool = |c| c.mlp_bias;
const UNTIED: fn(&LlamaConfig) -> bool = |c| !c.tie_word_embeddings;

use Place::{AfterLayers, BeforeLayers, Layer};

#[rustfmt::skip]
const TABLE: &[Row] = &[
    row(BeforeLayers, Kind::EmbedTokens, "model.embed_tokens.weight", Role::Embedding, |c| vec![c.vocab_size, c.hidden_size], ALWAYS),
    row(Layer, Kind::InputNorm, "input_layernorm.weight", Role::Norm, |c| vec![c.hidden_size], ALWAYS),
    row(Layer, Kind::Query, "self_attn.q_proj.weight", Role::Linear, |c| vec![c.query_size(), c.hidden_size], ALWAYS),
    row(Layer, Kind::QueryBias, "self_attn.q_proj.bias", Role::Bias, |c| vec![c.query_size()], QUERY_KEY_VALUE_BIAS),
    row(Layer, Kind::Key, "self_attn.k_proj.weight", Role::Linear, |c| vec![c.key_value_size(), c.hidden_size], ALWAYS),
    row(Layer, Kind::KeyBias, "self_attn.k_proj.bias", Role::Bias, |c| vec![c.key_value_size()], QUERY_KEY_VALUE_BIAS),
    row(Layer, Kind::Value, "self_attn.v_proj.weight", Role::Linear, |c| vec![c.key_value_size(), c.hidden_size], ALWAYS),
    row(Layer, Kind::ValueBias, "self_attn.v_proj.bias", Role::Bias, |c| vec![c.key_value_size()], QUERY_KEY_VALUE_BIAS),
    row(Layer, Kind::Output, "self_attn.o_proj.weight", Role::Linear, |c| vec![c.hidden_size, c.query_size()], ALWAYS),
    row(Layer, Kind::OutputBias, "self_attn.o_proj.bias", Role::Bias, |c| vec![c.hidden_size], OUTPUT_BIAS),
    row(Layer, Kind::QueryNorm, "self_attn.q_norm.weight", Role::Norm, |c| vec![c.head_dim], QUERY_KEY_NORM),
    row(Layer, Kind::KeyNorm, "self_attn.k_norm.weight", Role::Norm, |c| vec![c.head_dim], QUERY_KEY_NORM),
    row(Layer, Kind::PostAttentionNorm, "post_attention_layernorm.weight", Role::Norm, |c| vec![c.hidden_size], ALWAYS),
    row(Layer, Kind::Gate, "mlp.gate_proj.weight", Role::Linear, |c| vec![c.intermediate_size, c.hidden_size], ALWAYS),
    row(Layer, Kind::GateBias, "mlp.gate_proj.bias", Role::Bias, |c| vec![c.intermediate_size], MLP_BIAS),
    row(Layer, Kind::Up, "mlp.up_proj.weight", Role::Linear, |c| vec![c.intermediate_size, c.hidden_size], ALWAYS),
    row(Layer, Kind::UpBias, "mlp.up_proj.bias", Role::Bias, |c| vec![c.intermediate_size], MLP_BIAS),
    row(Layer, Kind::Down, "mlp.down_proj.weight", Role::Linear, |c| vec![c.hidden_size, c.intermediate_size], ALWAYS),
    row(Layer, Kind::DownBias, "mlp.down_proj.bias", Role::Bias, |c| vec![c.hidden_size], MLP_BIAS),
    row(AfterLayers, Kind::FinalNorm, "model.norm.weight", Role::Norm, |c| vec![c.hidden_size], ALWAYS),
    row(AfterLayers, Kind::Head, "lm_head.weight", Role::Head, |c| vec![c.vocab_size, c.hidden_size], UNTIED),
];

/// The name of the output projection, which tied checkpoints may hold although it is the embedding.
pub const HEAD: &str = "lm_head.weight";

/// One parameter of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in Hugging Face checkpoints.
    pub name: String,
    /// Which it is.
    pub kind: Kind,
    /// The decoder layer it belongs to, if any.
    pub layer: Option<usize>,
    /// What it is to the model.
    pub role: Role,
    /// Its axes, outermost first; weights are `[out, in]`.
    pub shape: Vec<usize>,
}

/// All parameters that a configuration asks for, in the order in which the model uses them.
pub fn parameters(config: &LlamaConfig) -> impl Iterator<Item = Parameter> + '_ {
    let rows = move |place| {
        TABLE
            .iter()
            .filter(move |row| row.place == place && (row.present)(config))
    };
    let make = move |row: &Row, layer: Option<usize>| Parameter {
        name: full_name(row, layer),
        kind: row.kind,
        layer,
        role: row.role,
        shape: (row.shape)(config),
    };
    rows(BeforeLayers)
        .map(move |row| make(row, None))
        .chain((0..config.num_hidden_layers).flat_map(move |i| rows(Layer).map(move |row| make(row, Some(i)))))
        .chain(rows(AfterLayers).map(move |row| make(row, None)))
}

impl Kind {
    /// The name of this parameter; `layer` is the decoder layer, and is not used for those outside the layers.
    pub fn name(self, layer: usize) -> String {
        let row = TABLE
            .iter()
            .find(|row| row.kind == self)
            .expect("each kind has a row, as a test shows");
        full_name(row, Some(layer))
    }

    /// This parameter in a model of this configuration, if it has one.
    pub fn parameter(self, config: &LlamaConfig, layer: usize) -> Option<Parameter> {
        let row = TABLE.iter().find(|row| row.kind == self && (row.present)(config))?;
        let layer = (row.place == Layer).then_some(layer);
        Some(Parameter {
            name: full_name(row, layer),
            kind: self,
            layer,
            role: row.role,
            shape: (row.shape)(config),
        })
    }

    /// The role of this parameter.
    pub fn role(self) -> Role {
        TABLE
            .iter()
            .find(|row| row.kind == self)
            .expect("each kind has a row, as a test shows")
            .role
    }
}

fn full_name(row: &Row, layer: Option<usize>) -> String {
    match (row.place, layer) {
        (Layer, Some(layer)) => format!("{LAYER_PREFIX}{layer}.{}", row.name),
        _ => row.name.to_owned(),
    }
}

/// What the names of a layer's parameters begin with, dot included.
pub fn layer_prefix(layer: usize) -> String {
    format!("{LAYER_PREFIX}{layer}.")
}

/// Whether a tensor of this name is a buffer that follows from the configuration, as old checkpoints hold them.
pub fn is_derived(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::tests::tiny;

    #[test]
    fn a_plain_model_has_nine_tensors_a_layer_and_three_more() {
        let untied = LlamaConfig {
            num_hidden_layers: 3,
            tie_word_embeddings: false,
            ..tiny()
        };
        assert_eq!(parameters(&untied).count(), 3 * 9 + 3);
        let tied = LlamaConfig {
            tie_word_embeddings: true,
            ..untied.clone()
        };
        assert_eq!(parameters(&tied).count(), 3 * 9 + 2);
        let biased = LlamaConfig {
            attention_bias: AttentionBias::All,
            mlp_bias: true,
            ..untied
        };
        assert_eq!(parameters(&biased).count(), 3 * (9 + 4 + 3) + 3);
        let qwen2 = LlamaConfig {
            attention_bias: AttentionBias::QueryKeyValue,
            mlp_bias: false,
            ..biased
        };
        assert_eq!(parameters(&qwen2).count(), 3 * (9 + 3) + 3);
        let qwen3 = LlamaConfig {
            attention_bias: AttentionBias::None,
            query_key_norm: true,
            ..qwen2
        };
        assert_eq!(parameters(&qwen3).count(), 3 * (9 + 2) + 3);
    }

    #[test]
    fn names_are_distinct_and_known_by_kind() {
        let config = LlamaConfig {
            attention_bias: AttentionBias::All,
            mlp_bias: true,
            query_key_norm: true,
            tie_word_embeddings: false,
            ..tiny()
        };
        let all: Vec<Parameter> = parameters(&config).collect();
        let names: BTreeSet<&str> = all.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        for parameter in &all {
            assert_eq!(parameter.kind.name(parameter.layer.unwrap_or(7)), parameter.name);
            assert_eq!(parameter.kind.role(), parameter.role);
        }
        assert_eq!(Kind::Query.name(11), "model.layers.11.self_attn.q_proj.weight");
        assert_eq!(Kind::Head.name(0), HEAD);
    }

    /// Against the published sizes of Llama 2 7B, Llama 3.1 8B, Qwen 2.5 0.5B and Qwen 3 0.6B.
    #[test]
    fn shapes_make_the_published_parameter_counts() {
        let llama2 = LlamaConfig {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: 128,
            tie_word_embeddings: false,
            ..tiny()
        };
        assert_eq!(llama2.parameter_count(), 6_738_415_616);
        let llama3 = LlamaConfig {
            vocab_size: 128_256,
            intermediate_size: 14_336,
            num_key_value_heads: 8,
            ..llama2
        };
        assert_eq!(llama3.parameter_count(), 8_030_261_248);
        let qwen2 = LlamaConfig {
            vocab_size: 151_936,
            hidden_size: 896,
            intermediate_size: 4864,
            num_hidden_layers: 24,
            num_attention_heads: 14,
            num_key_value_heads: 2,
            head_dim: 64,
            tie_word_embeddings: true,
            attention_bias: AttentionBias::QueryKeyValue,
            ..tiny()
        };
        assert_eq!(qwen2.parameter_count(), 494_032_768);
        let qwen3 = LlamaConfig {
            hidden_size: 1024,
            intermediate_size: 3072,
            num_hidden_layers: 28,
            num_attention_heads: 16,
            num_key_value_heads: 8,
            head_dim: 128,
            attention_bias: AttentionBias::None,
            query_key_norm: true,
            ..qwen2
        };
        assert_eq!(qwen3.parameter_count(), 596_049_920);
    }

    #[test]
    fn roles_say_what_may_be_clustered() {
        let config = LlamaConfig {
            tie_word_embeddings: false,
            ..tiny()
        };
        let count = |role| parameters(&config).filter(|p| p.role == role).count();
        let layers = config.num_hidden_layers;
        assert_eq!(count(Role::Linear), 7 * layers);
        assert_eq!(count(Role::Norm), 2 * layers + 1);
        assert_eq!(
            (count(Role::Embedding), count(Role::Head), count(Role::Bias)),
            (1, 1, 0)
        );
        assert!(parameters(&config)
            .filter(|p| p.role == Role::Linear)
            .all(|p| p.shape.len() == 2));
    }
}
