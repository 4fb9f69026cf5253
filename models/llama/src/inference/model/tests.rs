mod reference;

use std::collections::{BTreeMap, HashMap};

use edkm_palette::{FormatMetadata, PaletteSpec, PalettizedMatrix};
use edkm_testkit::golden::{Folder, Golden};

use super::*;
use crate::checkpoint::{write_model, Sharding, TensorEntry};
use crate::config::{AttentionBias, RopeScaling};
use crate::inference::testing::{
    assert_close, config, dense, dense_model, full_logits, packed_model, seed_of, tokens, Form,
};
use crate::names::{parameters, Role};

/// Logits are about 1; f32 sums of some hundred terms in a few layers.
const ROUNDING: f32 = 2e-5;

#[test]
fn every_option_of_the_configuration_is_the_definition() {
    let plain = config();
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 16,
    };
    for config in [
        plain.clone(),
        LlamaConfig {
            tie_word_embeddings: true,
            ..plain.clone()
        },
        LlamaConfig {
            attention_bias: AttentionBias::All,
            mlp_bias: true,
            ..plain.clone()
        },
        LlamaConfig {
            attention_bias: AttentionBias::QueryKeyValue,
            ..plain.clone()
        },
        // heads wider together than the residual stream
        LlamaConfig {
            query_key_norm: true,
            head_dim: 20,
            ..plain.clone()
        },
        LlamaConfig {
            num_key_value_heads: 6,
            ..plain.clone()
        },
        LlamaConfig {
            head_dim: 20,
            rope_scaling: RopeScaling::Linear { factor: 4.0 },
            ..plain.clone()
        },
        LlamaConfig {
            rope_scaling: llama3,
            ..plain
        },
    ] {
        let tokens = tokens(1, 40, &config);
        let got = full_logits(&dense_model(&config), &tokens);
        let want: Vec<f32> = reference::Reference::new(&config)
            .logits(&tokens)
            .iter()
            .map(|&l| l as f32)
            .collect();
        assert!(want.iter().any(|logit| logit.abs() > 0.5), "the logits say something");
        assert_close(&got, &want, ROUNDING);
    }
}

#[test]
fn packed_weights_give_the_logits_of_unpacked_ones() {
    let config = config();
    let tokens = tokens(1, 30, &config);
    for bits in 1..=8 {
        for group in [None, Some(8), Some(5)] {
            let packed = packed_model(&config, bits, group, Form::Packed);
            let unpacked = packed_model(&config, bits, group, Form::Unpacked);
            assert_close(&full_logits(&packed, &tokens), &full_logits(&unpacked, &tokens), 1e-4);
        }
    }
}

#[test]
fn the_pretrained_model_gives_its_golden_logits() {
    let Some(path) = Folder::Golden.locate_in("llama_stories260k.safetensors") else {
        return;
    };
    let golden = Golden::read(&path);
    let Some(dir) = Folder::Models.locate_in(&golden.metadata_as::<String>("model")) else {
        return;
    };
    let model = InferenceModel::open(dir).unwrap();
    assert_eq!(
        model.weight_bytes().total() as u64,
        model.config().parameter_count() * 4
    );
    assert!(model.weight_bytes().owned < 4096, "all but the norms stays in the file");
    let ids: Vec<u32> = golden.i64s("input_ids_i64").into_iter().map(|id| id as u32).collect();
    let [_, seq] = golden.shape("input_ids_i64")[..] else {
        panic!("[batch, sequence]")
    };
    // The last of each sequence is only predicted.
    let got: Vec<f32> = ids
        .chunks(seq)
        .flat_map(|ids| full_logits(&model, &ids[..seq - 1]))
        .collect();
    assert_close(&got, &golden.f32s("logits_f32"), 1e-3);
}

/// Writes the weights of `dense_model`, those of the linear layers palettized if `bits` says so.
fn write(dir: &Path, config: &LlamaConfig, dtype: FloatDtype, bits: Option<u8>, sharding: Sharding) {
    config.write(dir).unwrap();
    let all: Vec<_> = parameters(config).map(|p| (dense(&p, seed_of(&p)), p)).collect();
    let mut format = FormatMetadata::new();
    let mut packed = Vec::new();
    let mut entries = Vec::new();
    for (values, p) in &all {
        match (bits, p.role) {
            (Some(bits), Role::Linear) => packed.push((p.name.clone(), pack(values, &p.shape, bits))),
            _ => entries.push(TensorEntry::values(p.name.clone(), p.shape.clone(), values, dtype)),
        }
    }
    for (name, matrix) in &packed {
        format.insert(name, matrix);
        let parts = matrix.to_entries(name).into_iter();
        entries.extend(parts.map(|e| TensorEntry::bytes(e.name, e.dtype, e.shape, e.bytes)));
    }
    let metadata = if bits.is_some() {
        format.to_map().unwrap()
    } else {
        HashMap::new()
    };
    write_model(
        dir,
        entries,
        &metadata.into_iter().collect::<BTreeMap<_, _>>(),
        sharding,
    )
    .unwrap();
}

/// Rounds to equal steps: a poor palette, but one that follows from the weights.
fn pack(values: &[f32], shape: &[usize], bits: u8) -> PalettizedMatrix {
    let clusters = 1usize << bits;
    let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let palette: Vec<f32> = (0..clusters)
        .map(|i| largest * ((2 * i + 1) as f32 / clusters as f32 - 1.0))
        .collect();
    let index = |v: &f32| (((v / largest + 1.0) / 2.0 * clusters as f32) as usize).min(clusters - 1) as u8;
    let indices: Vec<u8> = values.iter().map(index).collect();
    PalettizedMatrix::pack(shape[0], shape[1], PaletteSpec::new(bits), &palette, &indices, None).unwrap()
}

#[test]
fn folders_of_every_type_are_used_in_place() {
    let config = config();
    let tokens = tokens(3, 20, &config);
    let exact = full_logits(&dense_model(&config), &tokens);
    // bf16 keeps 8 bits of a weight, f16 keeps 11.
    for (dtype, tolerance) in [
        (FloatDtype::F32, 1e-6),
        (FloatDtype::F16, 5e-3),
        (FloatDtype::Bf16, 4e-2),
    ] {
        for sharding in [Sharding::Single, Sharding::Shards { max_bytes: 20_000 }] {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &config, dtype, None, sharding);
            let model = InferenceModel::open(dir.path()).unwrap();
            let bytes = model.weight_bytes();
            let norms = 5 * config.hidden_size;
            assert_eq!(bytes.owned, norms * 4, "only the norms are copied");
            assert_eq!(bytes.mapped, (config.parameter_count() as usize - norms) * dtype.size());
            let mapped = full_logits(&model, &tokens);
            assert_close(&mapped, &exact, tolerance);
            let read = InferenceModel::open_with(dir.path(), Access::Read).unwrap();
            assert_eq!(full_logits(&read, &tokens), mapped);
        }
    }
}

#[test]
fn a_palettized_folder_runs_from_the_map() {
    let config = config();
    let tokens = tokens(3, 20, &config);
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &config, FloatDtype::F32, Some(3), Sharding::Single);
    let model = InferenceModel::open(dir.path()).unwrap();
    let bytes = model.weight_bytes();
    // Palettes (f32, 8 entries, 14 of them) are counted with their matrices.
    assert_eq!(bytes.owned, 5 * config.hidden_size * 4);
    assert!(bytes.mapped < config.parameter_count() as usize * 3, "{bytes:?}");
    let unpacked = InferenceModel::from_parts(config.clone(), |p| {
        let values = dense(p, seed_of(p));
        Ok(Weight::Dense(match p.role {
            Role::Linear => pack(&values, &p.shape, 3).dequantize(),
            _ => values,
        }))
    });
    assert_close(
        &full_logits(&model, &tokens),
        &full_logits(&unpacked.unwrap(), &tokens),
        1e-4,
    );
}

#[test]
fn parts_of_another_shape_are_refused() {
    let config = config();
    let refused = |name: &str, weight: Weight| {
        let given = |p: &Parameter| {
            Ok(if p.name == name {
                weight.clone()
            } else {
                Weight::Dense(dense(p, 1))
            })
        };
        let error = InferenceModel::from_parts(config.clone(), given).unwrap_err();
        assert!(
            matches!(&error, LlamaError::Inference(InferenceProblem::Part { name: n, .. }) if n == name),
            "{error}"
        );
        assert!(error.to_string().contains(name), "{error}");
    };
    let square = || Weight::Palettized(pack(&[0.5; 48 * 48], &[48, 48], 2));
    refused(&Kind::Query.name(1), Weight::Dense(vec![0.0; 48 * 48 - 1]));
    refused(&Kind::Key.name(0), square());
    refused(&Kind::FinalNorm.name(0), square());
    refused(&Kind::InputNorm.name(1), Weight::Dense(vec![1.0; 47]));
    let wrong = LlamaConfig {
        num_key_value_heads: 4,
        ..config.clone()
    };
    let error = InferenceModel::from_parts(wrong, |p| Ok(Weight::Dense(dense(p, 1)))).unwrap_err();
    assert!(matches!(error, LlamaError::Config { .. }), "{error}");
}

#[test]
fn a_folder_that_does_not_belong_together_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &config(), FloatDtype::F32, None, Sharding::Single);
    LlamaConfig {
        vocab_size: 98,
        ..config()
    }
    .write(dir.path())
    .unwrap();
    let error = InferenceModel::open(dir.path()).unwrap_err();
    assert!(matches!(error, LlamaError::Parameters { .. }), "{error}");
    assert!(matches!(
        InferenceModel::open("no/such/folder").unwrap_err(),
        LlamaError::Missing { .. }
    ));
}

#[test]
fn a_rotary_table_grows_when_it_must() {
    let model = dense_model(&config());
    let small = model.rotary(10);
    assert!(Arc::ptr_eq(&small, &model.rotary(small.positions())));
    assert!(model.rotary(small.positions() + 1).positions() > small.positions());
}
