//! What a caller can get wrong: an error with its reason, never a panic.

use dfdx::prelude::*;
use dfdx_edkm::StoreTape;
use edkm_store::Store;

use super::{DynamicLlama, Tokens};
use crate::config::tests::tiny;
use crate::names::Parameter;
use crate::LlamaError;

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
fn weights_of_another_length_are_named() {
    let mut short = |_: &Parameter| Ok(vec![1.0; 3]);
    let error = DynamicLlama::<Cpu>::from_weights(&tiny(), &Cpu::default(), &mut short).unwrap_err();
    assert!(
        matches!(&error, LlamaError::WrongLength { name, got: 12, .. } if name == "model.embed_tokens.weight"),
        "{error}"
    );
}
