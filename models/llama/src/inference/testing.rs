//! What the tests of this module share: small models of random weights.

use std::num::NonZeroUsize;

use edkm_palette::{PaletteSpec, PalettizedMatrix};

use super::cache::{KvCache, Span};
use super::forward::Workspace;
use super::random::SplitMix64;
use super::InferenceModel;
use crate::checkpoint::Weight;
use crate::config::LlamaConfig;
use crate::names::{Parameter, Role};

/// `count` numbers in -1..1.
pub(crate) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut random = SplitMix64::new(seed);
    (0..count).map(|_| (2.0 * random.uniform() - 1.0) as f32).collect()
}

/// Sizes that are no multiples of a register or a tile, with grouped queries.
pub(crate) fn config() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 97,
        hidden_size: 48,
        intermediate_size: 88,
        num_hidden_layers: 2,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 8,
        max_position_embeddings: 96,
        tie_word_embeddings: false,
        ..crate::config::tests::tiny()
    }
}

/// Tokens of the vocabulary.
pub(crate) fn tokens(seed: u64, count: usize, config: &LlamaConfig) -> Vec<u32> {
    let mut random = SplitMix64::new(seed);
    (0..count)
        .map(|_| (random.next_u64() % config.vocab_size as u64) as u32)
        .collect()
}

/// A weight that keeps activations at a size of about one.
pub(crate) fn dense(parameter: &Parameter, seed: u64) -> Vec<f32> {
    let count = parameter.shape.iter().product();
    let values = numbers(seed, count);
    match parameter.role {
        Role::Norm => values.iter().map(|v| 1.0 + 0.2 * v).collect(),
        Role::Bias => values.iter().map(|v| 0.1 * v).collect(),
        Role::Embedding => values,
        Role::Head | Role::Linear => {
            let scale = (3.0 / parameter.shape[1] as f32).sqrt();
            values.iter().map(|v| scale * v).collect()
        }
    }
}

pub(crate) fn seed_of(parameter: &Parameter) -> u64 {
    parameter
        .name
        .bytes()
        .fold(17, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

/// A model of dense random weights.
pub(crate) fn dense_model(config: &LlamaConfig) -> InferenceModel {
    let weight = |parameter: &Parameter| Ok(Weight::Dense(dense(parameter, seed_of(parameter))));
    InferenceModel::from_parts(config.clone(), weight).unwrap()
}

/// A model of random palettes and indices, packed or with the same weights as plain numbers.
pub(crate) fn packed_model(config: &LlamaConfig, bits: u8, group: Option<usize>, form: Form) -> InferenceModel {
    let weight = |parameter: &Parameter| {
        let seed = seed_of(parameter);
        if parameter.shape.len() < 2 {
            return Ok(Weight::Dense(dense(parameter, seed)));
        }
        let [rows, cols] = [parameter.shape[0], parameter.shape[1]];
        let spec = PaletteSpec {
            group_rows: group.and_then(NonZeroUsize::new),
            ..PaletteSpec::new(bits)
        };
        let scale = if parameter.role == Role::Embedding {
            1.0
        } else {
            (3.0 / cols as f32).sqrt()
        };
        let palettes: Vec<f32> = numbers(seed, spec.groups(rows) * spec.palette_len())
            .iter()
            .map(|v| scale * v)
            .collect();
        let mut random = SplitMix64::new(seed);
        let indices: Vec<u8> = (0..rows * cols)
            .map(|_| (random.next_u64() % spec.clusters() as u64) as u8)
            .collect();
        let packed = PalettizedMatrix::pack(rows, cols, spec, &palettes, &indices, None).unwrap();
        Ok(match form {
            Form::Packed => Weight::Palettized(packed),
            Form::Unpacked => Weight::Dense(packed.dequantize()),
        })
    };
    InferenceModel::from_parts(config.clone(), weight).unwrap()
}

/// In which form the weights of [`packed_model`] are given.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    Packed,
    Unpacked,
}

/// Asserts |got - want| <= tolerance for each number; NaN fails.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let within = (got - want).abs() <= tolerance;
        assert!(within, "number {i}: {got} against {want}, tolerance {tolerance}");
    }
}

/// Logits behind every token, `[tokens, vocabulary]`, in one pass.
pub(crate) fn full_logits(model: &InferenceModel, tokens: &[u32]) -> Vec<f32> {
    let mut cache = KvCache::for_one_pass(model.config(), tokens.len());
    let span = [Span {
        tokens: 0..tokens.len(),
        seen: 0..0,
        own: 0,
    }];
    let mut workspace = Workspace::default();
    model.forward(tokens, &span, &model.rotary(tokens.len()), &mut cache, &mut workspace);
    let mut logits = vec![f32::NAN; tokens.len() * model.config().vocab_size];
    model.project(&workspace.x_NH, &mut Vec::new(), &mut logits);
    logits
}
