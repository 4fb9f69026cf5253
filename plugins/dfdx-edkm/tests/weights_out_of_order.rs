//! Parameters whose numbers lie in another order than their indices: read transposed and permuted, or one number for all.

use dfdx::prelude::*;
use dfdx_edkm::nn::{ClusteredEmbedding, ClusteredLinear, RmsNorm, UnbiasedClusteredLinear};
use dfdx_edkm::ops::cross_entropy::{cross_entropy, Targets};
use dfdx_edkm::ops::distillation::{distillation, Teacher};
use dfdx_edkm::ops::embedding::embedding;
use dfdx_edkm::ops::linear::linear;
use dfdx_edkm::ops::Matrix;
use dfdx_edkm::optim::{AdamW, AdamWConfig};
use dfdx_edkm::{backward, StoreTape};
use edkm_store::Store;
use edkm_testkit::assert_bitwise_equal;

type Weight = Tensor<Rank2<6, 8>, f32, Cpu>;
type OnTape<S> = Tensor<S, f32, Cpu, StoreTape<f32, Cpu>>;

/// A weight that is permuted, and the same one that is not.
fn weights(dev: &Cpu) -> [Weight; 2] {
    let transposed: Tensor<Rank2<8, 6>, f32, _> = dev.sample_normal();
    let permuted: Weight = transposed.permute();
    let ordered = dev.tensor(permuted.array());
    [permuted, ordered]
}

fn tape() -> StoreTape<f32, Cpu> {
    StoreTape::new(Store::marshaling(), Gradients::leaky())
}

fn gradient(weight: &Weight, y: OnTape<Rank2<4, 6>>) -> Vec<f32> {
    backward(y.square().sum()).unwrap().get(weight).as_vec()
}

#[test]
fn the_gradient_comes_to_a_permuted_weight() {
    let dev = Cpu::default();
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let [permuted, ordered] = weights(&dev).map(|weight| {
        let clustering = Default::default();
        let unbiased = UnbiasedClusteredLinear {
            weight: weight.clone(),
            clustering,
        };
        let mut all = gradient(&weight, unbiased.forward(x.clone().put_tape(tape())));
        let biased = ClusteredLinear {
            weight: weight.clone(),
            bias: dev.zeros(),
            clustering: Default::default(),
        };
        all.extend(gradient(&weight, biased.forward(x.clone().put_tape(tape()))));
        let owned = unbiased.forward(x.leaky_trace()).square().sum::<Rank0, _>();
        all.extend(owned.backward().get(&weight).as_vec());
        let embedding = ClusteredEmbedding {
            weight: weight.clone(),
            clustering: Default::default(),
        };
        let y = embedding.forward(dev.tensor([3usize, 0, 3]).put_tape(tape()));
        all.extend(backward(y.square().sum()).unwrap().get(&weight).as_vec());
        all
    });
    assert!(ordered.iter().any(|&g| g != 0.0));
    assert_bitwise_equal("gradients", &permuted, &ordered);
}

/// Its numbers do lie in order, but dfdx copies it to another shape.
#[test]
fn the_gradient_comes_to_a_permuted_row() {
    let dev = Cpu::default();
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let column: Tensor<Rank2<8, 1>, f32, _> = dev.sample_normal();
    let permuted: Tensor<Rank2<1, 8>, f32, _> = column.permute();
    let ordered = dev.tensor(permuted.array());
    let [permuted, ordered] = [permuted, ordered].map(|weight| {
        let layer = UnbiasedClusteredLinear {
            weight: weight.clone(),
            clustering: Default::default(),
        };
        let loss = layer.forward(x.clone().put_tape(tape())).square().sum();
        backward(loss).unwrap().get(&weight).as_vec()
    });
    assert_bitwise_equal("gradients", &permuted, &ordered);
}

#[test]
fn the_gradient_comes_to_one_number_for_all_features() {
    let dev = Cpu::default();
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let number: Tensor<Rank0, f32, _> = dev.ones();
    let norm = RmsNorm {
        weight: number.clone().broadcast::<Rank1<8>, _>(),
        eps: 1e-5,
    };
    let y = norm.forward(x.clone().put_tape(tape()));
    let got = backward(y.square().sum()).unwrap().get(&number).array();
    // the sum of the squares is the number's square times what it is for one
    let want = 2.0 * norm.forward(x).square().sum::<Rank0, _>().array();
    assert!((got - want).abs() < 1e-4 * want, "{got} and {want}");
}

#[test]
fn ops_take_permuted_matrices() {
    let dev = Cpu::default();
    let x: Matrix<Cpu> = dev.sample_normal_like(&(4, 8));
    let targets = Targets {
        ids: [3, 0, 5, 5].into(),
        weights: [1.0; 4].into(),
    };
    let teacher: Matrix<Cpu> = dev.sample_normal_like(&(4, 8));
    let [permuted, ordered] = weights(&dev).map(|weight| {
        let w: Matrix<Cpu> = weight.clone().realize();
        let gradient = |loss: OnTape<Rank0>| backward(loss).unwrap().get(&weight).as_vec();
        let y = linear(x.clone().put_tape(tape()), &w, None, None).unwrap();
        let mut all = gradient(y.square().sum());
        let rows = embedding([2, 2, 1].into(), &w, None, tape()).unwrap();
        all.extend(gradient(rows.square().sum()));
        all.extend(gradient(
            cross_entropy(x.clone().put_tape(tape()), &w, None, targets.clone()).unwrap(),
        ));
        let teacher = Teacher {
            hidden: teacher.clone(),
            head: w.clone(),
            temperature: 2.0,
            share: 0.5,
            fade: 1.0,
        };
        let taught = distillation(x.clone().put_tape(tape()), &w, None, teacher, targets.clone()).unwrap();
        all.extend(gradient(taught.loss));
        all
    });
    assert_bitwise_equal("gradients", &permuted, &ordered);
}

#[test]
fn adamw_updates_a_permuted_weight() {
    let dev = Cpu::default();
    let x: Tensor<Rank2<4, 8>, f32, _> = dev.sample_normal();
    let [permuted, ordered] = weights(&dev).map(|weight| {
        let clustering = Default::default();
        let mut layer = UnbiasedClusteredLinear { weight, clustering };
        let mut adamw = AdamW::new(dev.clone(), AdamWConfig::default());
        for _ in 0..3 {
            let y = layer.forward(x.clone().put_tape(tape()));
            let mut gradients = backward(y.square().sum()).unwrap();
            adamw.step(&mut layer, &mut gradients, 1e-2, 1.0).unwrap();
        }
        layer.weight.as_vec()
    });
    // the norm that clips is a sum in the order of memory
    edkm_testkit::assert_close("weight", &permuted, &ordered, 1e-5);
}
