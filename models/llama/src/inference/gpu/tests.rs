//! Models on GPU 0 beside the same on the CPU.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;

use edkm_palette::{PaletteSpec, PalettizedMatrix, SharedBytes};
use half::{bf16, f16};

use super::weights::Batches;
use super::*;
use crate::checkpoint::{FloatDtype, Weight};
use crate::config::{AttentionBias, LlamaConfig};
use crate::inference::model::{Layer, Linear};
use crate::inference::testing::{
    assert_close, config, dense, dense_model, numbers, packed_model, seed_of, tokens, Form,
};
use crate::inference::{
    generate, CacheType, Continuation, DenseMatrix, GenerateOptions, Matrix, SamplingOptions, Session,
};
use crate::names::{Parameter, Role};

/// Logits are about 1: f32 sums of some hundred terms in two layers, in two orders.
const ROUNDING: f32 = 4e-5;

/// Keys and values that round to the other side, 2^-11 of their size.
const ROUNDING_OF_F16: f32 = 2e-3;

/// In batches of few tokens, so that some suffice for several.
fn on_gpu(model: InferenceModel) -> InferenceModel {
    let mut model = model.on_gpu(0, Precision::F32).unwrap();
    if let Place::Gpu(weights) = &mut model.place {
        Arc::get_mut(weights).unwrap().batches = Batches {
            prompt: 256,
            one_pass: 128,
        };
    }
    model
}

/// The same model twice: on the CPU and on the GPU.
fn both(make: impl Fn() -> InferenceModel) -> [InferenceModel; 2] {
    [make(), on_gpu(make())]
}

/// A model whose matrices are what `matrix` says.
fn packed_with(config: &LlamaConfig, spec: &PaletteSpec, scaled: bool) -> InferenceModel {
    let weight = |parameter: &Parameter| {
        let seed = seed_of(parameter);
        if parameter.role == Role::Norm || parameter.shape.len() < 2 {
            return Ok(Weight::Dense(dense(parameter, seed)));
        }
        let [rows, cols] = [parameter.shape[0], parameter.shape[1]];
        let size = if parameter.role == Role::Embedding {
            1.0
        } else {
            (3.0 / cols as f32).sqrt()
        };
        let count = spec.groups(rows) * spec.palette_len();
        let palettes: Vec<f32> = numbers(seed, count).iter().map(|x| size * x).collect();
        let clusters = spec.clusters();
        let indices: Vec<u8> = numbers(seed + 1, rows * cols / spec.vector)
            .iter()
            .map(|x| (((x + 1.0) / 2.0 * clusters as f32) as usize).min(clusters - 1) as u8)
            .collect();
        let scales: Vec<f32> = numbers(seed + 2, rows).iter().map(|x| 1.0 + 0.5 * x).collect();
        let scales = scaled.then_some(&scales[..]);
        let packed = PalettizedMatrix::pack(rows, cols, *spec, &palettes, &indices, scales).unwrap();
        Ok(Weight::Palettized(packed))
    };
    InferenceModel::from_parts(config.clone(), weight).unwrap()
}

/// A dense model whose linear layers are kept as 16 bits.
fn halves(config: &LlamaConfig, dtype: FloatDtype) -> InferenceModel {
    let mut model = dense_model(config);
    let rounded = |linear: &mut Linear| {
        let (rows, cols) = (linear.weight.rows(), linear.weight.cols());
        let mut row = vec![0.0; cols];
        let mut bytes: Vec<u8> = Vec::new();
        for r in 0..rows {
            linear.weight.row_into(r, &mut row);
            bytes.extend(row.iter().flat_map(|&x| match dtype {
                FloatDtype::F16 => f16::from_f32(x).to_le_bytes(),
                _ => bf16::from_f32(x).to_le_bytes(),
            }));
        }
        let len = bytes.len();
        let shared = SharedBytes::new(Arc::new(bytes), 0..len).unwrap();
        linear.weight = Matrix::Dense(DenseMatrix::shared(rows, cols, shared, dtype).unwrap());
    };
    for layer in &mut Arc::get_mut(&mut model.shared).unwrap().layers {
        let Layer {
            query,
            key,
            value,
            output,
            gate,
            up,
            down,
            ..
        } = layer;
        [query, key, value, output, gate, up, down]
            .into_iter()
            .for_each(rounded);
    }
    model
}

/// Models of every form of weights, heads and options, by name.
fn models(positions: usize) -> Vec<(&'static str, [InferenceModel; 2])> {
    let config = LlamaConfig {
        max_position_embeddings: positions,
        ..config()
    };
    let with_biases = LlamaConfig {
        attention_bias: AttentionBias::All,
        mlp_bias: true,
        tie_word_embeddings: true,
        num_key_value_heads: 6,
        ..config.clone()
    };
    let with_head_norms = LlamaConfig {
        query_key_norm: true,
        head_dim: 20,
        ..config.clone()
    };
    let vectors = PaletteSpec {
        vector: 2,
        group_rows: NonZeroUsize::new(8),
        ..PaletteSpec::new(5)
    };
    vec![
        ("dense, f32", both(|| dense_model(&config))),
        ("dense, biases, tied", both(|| dense_model(&with_biases))),
        ("dense, norms of heads", both(|| dense_model(&with_head_norms))),
        ("dense, f16", both(|| halves(&config, FloatDtype::F16))),
        ("dense, bf16", both(|| halves(&config, FloatDtype::Bf16))),
        ("3 bits", both(|| packed_model(&config, 3, None, Form::Packed))),
        (
            "4 bits, groups",
            both(|| packed_model(&config, 4, Some(8), Form::Packed)),
        ),
        (
            "5 bits, vectors, factors of rows",
            both(|| packed_with(&config, &vectors, true)),
        ),
    ]
}

#[test]
fn sessions_have_the_logits_of_the_cpu() {
    for (name, [cpu, gpu]) in models(96) {
        for (cache_type, bound) in [(CacheType::F32, ROUNDING), (CacheType::F16, ROUNDING_OF_F16)] {
            // what the weights are makes no difference to the cache
            if cache_type == CacheType::F16 && !name.starts_with("dense, b") {
                continue;
            }
            let tokens = tokens(5, 60, cpu.config());
            let mut sessions = [&cpu, &gpu].map(|model| Session::new(model, 60, cache_type).unwrap());
            // few that are multiplied as they are stored, many, then singly
            for range in [0..1, 1..4, 4..57, 57..58, 58..59] {
                let [want, got] = sessions
                    .each_mut()
                    .map(|session| session.prefill(&tokens[range.clone()]).unwrap().to_vec());
                println!("{name}, {cache_type:?}, up to {}", range.end);
                assert_close(&got, &want, bound);
            }
            // what was read is read again from the middle
            let [want, got] = sessions.map(|mut session| {
                session.truncate(20);
                session.prefill(&tokens[20..30]).unwrap().to_vec()
            });
            assert_close(&got, &want, bound);
        }
    }
}

#[test]
fn a_context_of_several_ranges_of_keys() {
    let config = LlamaConfig {
        max_position_embeddings: 400,
        ..config()
    };
    let [cpu, gpu] = both(|| packed_model(&config, 3, None, Form::Packed));
    let tokens = tokens(7, 330, &config);
    let run = |model| {
        let mut session = Session::new(model, 400, CacheType::F32).unwrap();
        // two batches, then one token
        let first = session.prefill(&tokens).unwrap().to_vec();
        [first, session.decode(3).unwrap().to_vec()].concat()
    };
    assert_close(&run(&gpu), &run(&cpu), ROUNDING);
}

#[test]
fn greedy_generation_gives_the_tokens_of_the_cpu() {
    for (name, [cpu, gpu]) in models(96) {
        let prompt = tokens(1, 12, cpu.config());
        let options = GenerateOptions {
            max_tokens: 12,
            stop_tokens: Vec::new(),
            sampling: SamplingOptions::greedy(),
        };
        let [want, got] = [&cpu, &gpu].map(|model| {
            let mut session = Session::new(model, 40, CacheType::F32).unwrap();
            let generation = generate(&mut session, &prompt, &options, |_| ControlFlow::Continue(())).unwrap();
            // nothing is rounded up on a GPU
            assert!(generation.cache_bytes > 0);
            generation.tokens
        });
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn likelihoods_are_those_of_the_cpu() {
    for (name, [cpu, gpu]) in models(200) {
        let make = |seed, len| tokens(seed, len, cpu.config());
        // alone; of one token; none; several of one context; equal contexts apart
        let mut asked = vec![
            (make(1, 5), make(2, 9)),
            (make(1, 16), make(3, 1)),
            (make(1, 16), make(4, 33)),
            (make(1, 16), make(5, 0)),
            (make(1, 16), make(6, 2)),
            (make(1, 5), make(8, 1)),
        ];
        if name == "3 bits" {
            // more than one batch, some of one context; then a context that is longer than a batch
            asked.extend((0..4).map(|i| (make(i, 3), make(i + 1, 50))));
            asked.extend((0..5).map(|i| (make(7, 40), make(i, 60))));
            let context = make(1, 140);
            asked.extend([1, 3, 0].map(|len| (context.clone(), make(9, len))));
        }
        let continuations: Vec<Continuation<'_>> = asked
            .iter()
            .map(|(context, tokens)| Continuation { context, tokens })
            .collect();
        let [want, got] = [&cpu, &gpu].map(|model| model.continuation_log_likelihoods(&continuations).unwrap());
        println!("{name}");
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            assert_close(got, want, 6e-5);
        }
    }
}

#[test]
fn what_a_gpu_cannot_do_is_said() {
    let refused = |config: LlamaConfig| dense_model(&config).on_gpu(0, Precision::F32).unwrap_err();
    let large = LlamaConfig {
        head_dim: 130,
        ..config()
    };
    let error = refused(large);
    assert!(
        matches!(
            error,
            LlamaError::Inference(InferenceProblem::HeadsOnGpu {
                dim: 130,
                most_dim: 128,
                ..
            })
        ),
        "{error}"
    );
    let error = dense_model(&config()).on_gpu(77, Precision::F32).unwrap_err();
    assert!(error.to_string().contains("no GPU 77"), "{error}");
}

#[test]
fn a_cache_that_does_not_fit_is_named() {
    // more than any GPU has
    let endless = LlamaConfig {
        max_position_embeddings: 1 << 30,
        num_key_value_heads: 6,
        head_dim: 128,
        ..config()
    };
    let model = on_gpu(dense_model(&endless));
    let error = Session::new(&model, 1 << 30, CacheType::F16).unwrap_err();
    let LlamaError::Inference(InferenceProblem::GpuMemory { what, bytes, .. }) = &error else {
        panic!("{error}");
    };
    // 2 layers x keys and values x 6 heads x 128 numbers x 2 bytes
    assert_eq!(
        (what.as_str(), *bytes),
        ("keys and values of 1073741824 tokens", (2 * 2 * 6 * 128 * 2) << 30)
    );
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let poisoned = || {
        InferenceModel::from_parts(config(), |p| {
            let mut values = dense(p, seed_of(p));
            if p.name == "model.layers.1.mlp.up_proj.weight" {
                values[77] = f32::NAN;
            }
            Ok(Weight::Dense(values))
        })
    };
    let model = on_gpu(poisoned().unwrap());
    let named = |error: LlamaError| {
        assert!(
            matches!(&error, LlamaError::NotFinite { name, index: 77, .. } if name == "model.layers.1.mlp.up_proj.weight"),
            "{error}"
        );
    };
    let mut session = Session::new(&model, 10, CacheType::F32).unwrap();
    named(session.prefill(&[1, 2]).unwrap_err());
    assert!(session.tokens().is_empty());
    named(model.log_likelihoods(&[1, 2, 3]).unwrap_err());
}
