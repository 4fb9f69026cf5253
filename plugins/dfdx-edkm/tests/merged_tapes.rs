//! Tapes that are merged: those that dfdx makes for branches, and those of several models.

use dfdx::prelude::*;
use dfdx_edkm::nn::builders::UnbiasedClusteredLinear;
use dfdx_edkm::{backward, name_clusterings, with_reason, EdkmError, StoreTape};
use edkm_store::{Backend, Store};

type Layer = UnbiasedClusteredLinear<8, 8>;

#[test]
fn branches_save_to_the_store_of_the_tape() {
    let dev = Cpu::default();
    type Net = (Residual<(Layer, Tanh, Layer)>, SplitInto<(Layer, Residual<Layer>)>);
    let model = dev.build_module::<Net, f32>();
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let store = Store::memory();
    let tape = StoreTape::new(store.clone(), model.alloc_grads());
    let (a, b) = model.forward(x.clone().put_tape(tape));
    assert_eq!(store.report().held_count, 4, "an input of each layer");
    let grads = backward(a.square().mean() + b.square().mean()).unwrap();
    assert_eq!(store.report().held_count, 0);

    let (a, b) = model.forward(x.traced(model.alloc_grads()));
    let expected = (a.square().mean() + b.square().mean()).backward();
    let (first, second) = (&model.0 .0 .0.weight, &model.1 .0 .1 .0.weight);
    assert_eq!(grads.get(first).array(), expected.get(first).array());
    assert_eq!(grads.get(second).array(), expected.get(second).array());
}

/// Two tapes before the first forward pass: nothing tells a branch which is its own.
#[test]
fn a_branch_in_a_store_that_keeps_numbers_otherwise_is_an_error() {
    let dev = Cpu::default();
    let model = dev.build_module::<(Residual<Layer>, Layer), f32>();
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let run = |other: Store| {
        let tape = StoreTape::new(Store::memory(), model.alloc_grads());
        let _other = StoreTape::<f32, Cpu>::new(other, Gradients::leaky());
        backward(model.forward(x.clone().put_tape(tape)).square().mean())
    };
    let error = run(Store::builder().bf16_activations().build().unwrap())
        .map(drop)
        .unwrap_err();
    assert!(matches!(error, EdkmError::OtherTape), "{error}");
    let grads = run(Store::memory()).unwrap();
    let expected = model
        .forward(x.clone().traced(model.alloc_grads()))
        .square()
        .mean()
        .backward();
    let weight = &model.0 .0.weight;
    assert_eq!(grads.get(weight).array(), expected.get(weight).array());
}

#[test]
fn the_reason_of_a_failure_without_a_tape() {
    let dev = Cpu::default();
    let mut model = dev.build_module::<Layer, f32>();
    model.weight[[2, 3]] = f32::NAN;
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let (output, reason) = with_reason(|| model.try_forward(x.clone()).map(drop));
    assert!(output.is_err() && reason.unwrap().to_string().contains("weight 19 is NaN"));
    let (output, reason) = with_reason(|| model.try_forward(x.clone().leaky_trace()).map(drop));
    assert!(output.is_err() && reason.unwrap().to_string().contains("weight 19 is NaN"));
    // which layer it is, once that is said
    let mut models = (model.clone(), model);
    name_clusterings(&mut models);
    let (output, reason) = with_reason(|| models.1.try_forward(x.clone()).map(drop));
    assert!(output.is_err() && reason.unwrap().to_string().contains("linear (1.weight) failed"));
    let (seven, reason) = with_reason(|| 7);
    assert!(seven == 7 && reason.is_none());
}

#[test]
fn a_failure_in_a_branch_is_the_tapes() {
    let dev = Cpu::default();
    let mut model = dev.build_module::<Residual<Layer>, f32>();
    model.0.weight[[2, 3]] = f32::NAN;
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let tape = StoreTape::new(Store::memory(), model.alloc_grads());
    let failure = tape.failure();
    assert!(model.try_forward(x.put_tape(tape)).is_err());
    let reason = failure.take().expect("the reason").to_string();
    assert!(reason.contains("weight 19 is NaN"), "{reason}");
}

#[test]
fn an_empty_tape_has_no_store_once_the_last_tape_is_gone() {
    let store = Store::memory();
    let tape: StoreTape<f32, Cpu> = StoreTape::new(store, Gradients::leaky());
    assert!(StoreTape::<f32, Cpu>::default().store().is_some());
    drop(tape);
    assert!(StoreTape::<f32, Cpu>::default().store().is_none());
}

#[test]
fn the_gradients_of_merged_tapes_are_those_of_both_models() {
    let dev = Cpu::default();
    let [left, right] = [(); 2].map(|()| dev.build_module::<Layer, f32>());
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let taped = |layer: &dfdx_edkm::nn::UnbiasedClusteredLinear<_, _, _, _>| {
        let tape = StoreTape::new(Store::memory(), layer.alloc_grads());
        layer.forward(x.clone().put_tape(tape))
    };
    let grads = backward((taped(&left) * taped(&right)).mean()).unwrap();
    let owned = |layer: &dfdx_edkm::nn::UnbiasedClusteredLinear<_, _, _, _>| {
        layer.forward(x.clone().traced(layer.alloc_grads()))
    };
    let expected = (owned(&left) * owned(&right)).mean().backward();
    for layer in [&left, &right] {
        assert_eq!(grads.get(&layer.weight).array(), expected.get(&layer.weight).array());
    }
}

#[test]
fn a_failure_on_a_merged_tape_is_told_by_backward() {
    let dev = Cpu::default();
    let [left, right] = [(); 2].map(|()| dev.build_module::<Layer, f32>());
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let damaged = Store::builder().compress(Forgetful).build().unwrap();
    let y = left.forward(x.clone().put_tape(StoreTape::new(Store::memory(), left.alloc_grads())));
    let z = right.forward(x.put_tape(StoreTape::new(damaged, right.alloc_grads())));
    let error = backward((y * z).mean())
        .expect_err("a codec that cannot decode")
        .to_string();
    assert!(error.contains("forgotten"), "{error}");
}

/// A codec that cannot decode.
struct Forgetful;

impl edkm_store::Codec for Forgetful {
    fn name(&self) -> &'static str {
        "forgetful"
    }

    fn encode(&self, _: &[u8], _: usize) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn decode(&self, _: &[u8], _: usize, _: &mut [u8]) -> Result<(), edkm_store::CodecError> {
        Err(edkm_store::CodecError("forgotten".to_owned()))
    }
}
