//! The model beside the one for inference, which is held against its definition in f64; and what a caller can get wrong: an error with its reason, never a panic.

use dfdx::prelude::*;
use dfdx_edkm::{backward, Spec, StoreTape};
use edkm_store::Store;

use super::{DynamicLlama, PalettizedParameter, Recompute, Segments, Teacher, Tokens};
use crate::config::tests::tiny;
use crate::config::{AttentionBias, LlamaConfig};
use crate::inference::testing::{
    assert_close, config, dense, dense_model, full_logits, seed_of, tokens as random_tokens,
};
use crate::names::{Parameter, Role};
use crate::LlamaError;

/// Of each architecture.
#[test]
fn training_and_inference_compute_the_same() {
    for (attention_bias, query_key_norm) in [
        (AttentionBias::None, false),
        (AttentionBias::QueryKeyValue, false),
        (AttentionBias::All, false),
        (AttentionBias::None, true),
        (AttentionBias::All, true),
    ] {
        let config = LlamaConfig {
            attention_bias,
            query_key_norm,
            ..config()
        };
        let mut weight = |parameter: &Parameter| Ok(dense(parameter, seed_of(parameter)));
        let model: DynamicLlama<Cpu> = DynamicLlama::from_weights(&config, &Cpu::default(), &mut weight).unwrap();
        let ids = random_tokens(3, 20, &config);
        let tokens = Tokens {
            ids: ids.clone().into(),
            batch: 1,
            segments: None,
        };
        let got = model.try_logits(&tokens, NoneTape).unwrap().as_vec();
        assert_close(&got, &full_logits(&dense_model(&config), &ids), 2e-5);
    }
}

/// Hidden states of texts that share a sequence and do not see each other are those of each text alone, at the same bits whatever is run again; the places of
/// a text in the sequence make a difference in the last digits (rotary embedding).
#[test]
fn segments_are_texts_by_themselves() {
    let config = config();
    let mut weight = |parameter: &Parameter| Ok(dense(parameter, seed_of(parameter)));
    let mut model: DynamicLlama<Cpu> = DynamicLlama::from_weights(&config, &Cpu::default(), &mut weight).unwrap();
    let ids = random_tokens(3, 24, &config);
    let lengths = [5, 1, 6, 12];
    let tokens = Tokens {
        ids: ids.clone().into(),
        batch: 2,
        segments: Segments::new(12, lengths),
    };
    assert!(tokens.segments.is_some());
    let logits = model.try_logits(&tokens, NoneTape).unwrap().as_vec();
    let mut begin = 0;
    for length in lengths.map(|length| length as usize) {
        let text = begin..begin + length;
        let want = full_logits(&dense_model(&config), &ids[text.clone()]);
        let width = config.vocab_size;
        assert_close(&logits[text.start * width..text.end * width], &want, 2e-5);
        begin = text.end;
    }
    let teacher = Teacher::new(&model).unwrap();
    let hidden = model.try_hidden(&tokens, NoneTape).unwrap().as_vec();
    assert_eq!(teacher.try_hidden(&tokens).unwrap().as_vec(), hidden);
    let mut gradients = |recompute| {
        model.recompute = recompute;
        let tape = StoreTape::new(Store::marshaling(), Gradients::leaky());
        let hidden = model.try_hidden(&tokens, tape).unwrap();
        let gradients = backward(hidden.square().mean()).unwrap();
        let of = |layer: usize| gradients.get(&model.layers[layer].query.weight).as_vec();
        [of(0), of(1)].concat()
    };
    let want = gradients(Recompute::Nothing);
    for recompute in [Recompute::Attention, Recompute::Layers] {
        assert_eq!(gradients(recompute), want, "{recompute:?}");
    }
    // and the sum of those of each text alone
    let mut sum = vec![0.0; want.len()];
    let mut begin = 0;
    for length in lengths.map(|length| length as usize) {
        let alone = Tokens {
            ids: ids[begin..begin + length].to_vec().into(),
            batch: 1,
            segments: None,
        };
        let tape = StoreTape::new(Store::marshaling(), Gradients::leaky());
        let loss = model.try_hidden(&alone, tape).unwrap().square().mean();
        let gradients = backward(loss * (length as f32 / ids.len() as f32)).unwrap();
        let of = |layer: usize| gradients.get(&model.layers[layer].query.weight).as_vec();
        for (sum, x) in sum.iter_mut().zip([of(0), of(1)].concat()) {
            *sum += x;
        }
        begin += length;
    }
    assert_close(&want, &sum, 2e-5);
}

#[test]
fn segments_of_other_sequences_are_an_error() {
    let mut ones = |parameter: &Parameter| Ok(vec![1.0; parameter.shape.iter().product()]);
    let model: DynamicLlama<Cpu> = DynamicLlama::from_weights(&tiny(), &Cpu::default(), &mut ones).unwrap();
    for (seq, lengths) in [(4, &[1, 3][..]), (2, &[2, 2]), (8, &[3, 5])] {
        let tokens = Tokens {
            ids: vec![1; 8].into(),
            batch: 2,
            segments: Segments::new(seq, lengths),
        };
        let tape = StoreTape::new(Store::memory(), Gradients::leaky());
        let failure = tape.failure();
        assert!(model.try_hidden(&tokens, tape).is_err());
        let reason = failure.take().expect("the reason").to_string();
        assert!(reason.contains("segments of 2 sequences of 4"), "{reason}");
    }
}

#[test]
fn ids_that_are_no_whole_sequences_are_an_error() {
    let mut ones = |parameter: &Parameter| Ok(vec![1.0; parameter.shape.iter().product()]);
    let model: DynamicLlama<Cpu> = DynamicLlama::from_weights(&tiny(), &Cpu::default(), &mut ones).unwrap();
    for (ids, batch) in [(5, 2), (6, 0), (0, 1), (0, 0)] {
        let tokens = Tokens {
            ids: vec![1; ids].into(),
            batch,
            segments: None,
        };
        let tape = StoreTape::new(Store::memory(), Gradients::leaky());
        let failure = tape.failure();
        assert!(model.try_hidden(&tokens, tape).is_err());
        let reason = failure.take().expect("the reason").to_string();
        assert!(
            reason.contains(&format!("{ids} ids for a batch of {batch}")),
            "{reason}"
        );
    }
}

#[test]
fn norms_of_other_heads_are_an_error() {
    let config = LlamaConfig {
        query_key_norm: true,
        ..tiny()
    };
    let mut ones = |parameter: &Parameter| Ok(vec![1.0; parameter.shape.iter().product()]);
    let dev = Cpu::default();
    let mut model: DynamicLlama<Cpu> = DynamicLlama::from_weights(&config, &dev, &mut ones).unwrap();
    model.layers[1].head_norms.as_mut().unwrap().key.weight = dev.ones_like(&(3,));
    let tokens = Tokens {
        ids: vec![1; 6].into(),
        batch: 2,
        segments: None,
    };
    let tape = StoreTape::new(Store::memory(), Gradients::leaky());
    let failure = tape.failure();
    assert!(model.try_hidden(&tokens, tape).is_err());
    let reason = failure.take().expect("the reason").to_string();
    assert!(
        reason.contains("norms of heads") && reason.contains("the norm's 3"),
        "{reason}"
    );
}

#[test]
fn weights_of_another_length_are_named() {
    let mut short = |_: &Parameter| Ok(vec![1.0; 3]);
    let error = DynamicLlama::<Cpu>::from_weights(&tiny(), &Cpu::default(), &mut short).unwrap_err();
    assert!(
        matches!(&error, LlamaError::WrongLength { name, got: 12, .. } if name == "model.embed_tokens.weight"),
        "{error}"
    );
}

#[test]
fn palettes_of_another_model_are_not_written() {
    use crate::checkpoint::{FloatDtype, Sharding};
    use edkm_palette::PaletteDType;
    let config = config();
    let mut weight = |parameter: &Parameter| Ok(dense(parameter, seed_of(parameter)));
    let mut model: DynamicLlama<Cpu> = DynamicLlama::from_weights(&config, &Cpu::default(), &mut weight).unwrap();
    model.set_clustering(&|p: &Parameter| (p.role == Role::Linear).then(Spec::default));
    let dir = tempfile::tempdir().unwrap();
    let mut write = |rename: &dyn Fn(&mut Vec<PalettizedParameter>)| {
        let mut palettes = model.palettize(PaletteDType::F32).unwrap();
        rename(&mut palettes);
        model.write_weights(dir.path(), &palettes, FloatDtype::F32, Sharding::Single)
    };
    let error = write(&|palettes| palettes[0].name = "typo".into()).unwrap_err();
    assert!(
        matches!(&error, LlamaError::NoTensor { name, .. } if name == "typo"),
        "{error}"
    );
    // a projection in the place of another one of other sizes
    let down = |p: &PalettizedParameter| p.name.ends_with("0.mlp.down_proj.weight");
    let up = |p: &PalettizedParameter| p.name.ends_with("0.mlp.up_proj.weight");
    let error = write(&|palettes| {
        let [from, to] = [palettes.iter().position(down), palettes.iter().position(up)].map(Option::unwrap);
        palettes[to].matrix = palettes[from].matrix.clone();
    });
    let error = error.unwrap_err();
    assert!(
        matches!(&error, LlamaError::Shape { name, .. } if name.ends_with("up_proj.weight")),
        "{error}"
    );
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    write(&|_| ()).unwrap();
}
