//! The model beside the one for inference, which is held against its definition in f64; and what a caller can get wrong: an error with its reason, never a panic.

use dfdx::prelude::*;
use dfdx_edkm::StoreTape;
use edkm_store::Store;

use super::{DynamicLlama, Tokens};
use crate::config::tests::tiny;
use crate::config::{AttentionBias, LlamaConfig};
use crate::inference::testing::{
    assert_close, config, dense, dense_model, full_logits, seed_of, tokens as random_tokens,
};
use crate::names::Parameter;
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
        };
        let got = model.try_logits(&tokens, NoneTape).unwrap().as_vec();
        assert_close(&got, &full_logits(&dense_model(&config), &ids), 2e-5);
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
