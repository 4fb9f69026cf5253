//! Two ways to the same result: tapes, stores, checkpointing, thread counts. Bitwise.

use std::num::NonZeroUsize;

use dfdx::nn::modules::{Linear as BuiltLinear, ReLU};
use dfdx::optim::{Adam, Optimizer, Sgd};
use dfdx::prelude::*;
use dfdx_edkm::nn::builders::{ClusteredLinear, RmsNorm, UnbiasedClusteredLinear};
use dfdx_edkm::nn::IntoClustered;
use dfdx_edkm::optim::{AdamWConfig, AdamWOptimizer};
use dfdx_edkm::{
    backward, checkpoint, Bits, ChannelScale, DeviceBudget, Grouping, MatrixShape, PaletteDType, Spec, StoreTape,
    VectorLen,
};
use edkm_store::{Backend, Store};
use edkm_testkit::assert_bitwise_equal;

type Net = (
    ClusteredLinear<24, 40>,
    ReLU,
    RmsNorm<40>,
    UnbiasedClusteredLinear<40, 32>,
    Linear<32, 8>,
);
type Built = <Net as BuildOnDevice<Cpu, f32>>::Built;

fn net(dev: &Cpu) -> Built {
    dev.build_module::<Net, f32>()
}

fn input(dev: &Cpu) -> Tensor<Rank2<13, 24>, f32, Cpu> {
    dev.sample_normal()
}

/// All gradients, one behind the other.
fn flat(model: &Built, grads: &Gradients<f32, Cpu>, x: &Tensor<Rank2<13, 24>, f32, Cpu>) -> Vec<f32> {
    let mut all = grads.get(&model.0.weight).as_vec();
    all.extend(grads.get(&model.0.bias).as_vec());
    all.extend(grads.get(&model.2.weight).as_vec());
    all.extend(grads.get(&model.3.weight).as_vec());
    all.extend(grads.get(&model.4.weight).as_vec());
    all.extend(grads.get(&model.4.bias).as_vec());
    all.extend(grads.get(x).as_vec());
    all
}

fn on_owned_tape(model: &Built, x: &Tensor<Rank2<13, 24>, f32, Cpu>) -> Vec<f32> {
    let grads = model.forward(x.leaky_trace()).square().mean().backward();
    flat(model, &grads, x)
}

fn on_store_tape(model: &Built, x: &Tensor<Rank2<13, 24>, f32, Cpu>, store: Store) -> Vec<f32> {
    let tape = StoreTape::new(store.clone(), Gradients::leaky());
    let loss = model.forward(x.clone().put_tape(tape)).square().mean();
    assert!(store.report().held_bytes > 0, "nothing went to the store");
    let grads = backward(loss).unwrap();
    assert_eq!(store.report().held_bytes, 0, "something is left in the store");
    flat(model, &grads, x)
}

#[test]
fn gradients_are_the_same_bits_on_every_tape_and_store() {
    let dev = Cpu::default();
    let (model, x) = (net(&dev), input(&dev));
    let owned = on_owned_tape(&model, &x);
    assert!(owned.iter().any(|&g| g != 0.0));
    for (name, store) in [("memory", Store::memory()), ("marshal", Store::marshaling())] {
        assert_bitwise_equal(name, &on_store_tape(&model, &x, store), &owned);
    }
}

#[test]
fn gradients_are_the_same_bits_whatever_stays_on_the_device() {
    let dev = Cpu::default();
    let (model, x) = (net(&dev), input(&dev));
    let owned = on_owned_tape(&model, &x);
    let mut all = 0;
    for bytes in [u64::MAX, 2500, 0] {
        let (store, budget) = (Store::memory(), DeviceBudget::new(bytes));
        let tape = StoreTape::new(store.clone(), Gradients::leaky()).with_device_budget(&budget);
        let loss = model.forward(x.clone().put_tape(tape)).square().mean();
        let (stays, stored) = (budget.held_bytes(), store.report().held_bytes);
        if bytes == u64::MAX {
            assert!(stays > 2500);
            all = stays;
        }
        assert!(stays <= bytes && (stays > 0) == (bytes > 0), "{stays} of {bytes}");
        assert_eq!(stays + stored, all, "each is in one place");
        let gradients = backward(loss).unwrap();
        assert_eq!(
            (budget.held_bytes(), store.report().held_bytes),
            (0, 0),
            "something is left"
        );
        assert_eq!(budget.peak_bytes(), stays);
        assert_bitwise_equal(&format!("{bytes} bytes stay"), &flat(&model, &gradients, &x), &owned);
    }
}

#[test]
fn gradients_do_not_depend_on_the_number_of_threads() {
    let dev = Cpu::default();
    let (model, x) = (net(&dev), input(&dev));
    let with_threads = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| on_store_tape(&model, &x, Store::memory()))
    };
    let one = with_threads(1);
    for threads in [2, 3, 5] {
        assert_bitwise_equal(&format!("{threads} threads"), &with_threads(threads), &one);
    }
}

#[test]
fn the_same_input_saved_twice_is_kept_once_under_marshaling() {
    let dev = Cpu::default();
    type Layer = UnbiasedClusteredLinear<32, 32>;
    let (q, k) = (dev.build_module::<Layer, f32>(), dev.build_module::<Layer, f32>());
    let kept = |store: Store| {
        let x: Tensor<Rank2<16, 32>, f32, _> = dev.ones();
        let (x, tape) = x
            .put_tape(StoreTape::new(store.clone(), Gradients::leaky()))
            .split_tape();
        let (q, tape) = q.forward(x.clone().put_tape(tape)).split_tape();
        let y = k.forward(x.put_tape(tape)) + q;
        let kept = store.report().held_bytes;
        drop(y);
        assert_eq!(store.report().held_bytes, 0, "a dropped tape frees what it held");
        kept
    };
    let one = 16 * 32 * size_of::<f32>() as u64;
    assert_eq!((kept(Store::memory()), kept(Store::marshaling())), (2 * one, one));
}

#[test]
fn checkpointing_changes_no_bit_of_any_gradient() {
    let dev = Cpu::default();
    type Stock = (Linear<24, 48>, Tanh, Linear<48, 24>);
    let inner = dev.build_module::<Stock, f32>();
    let outer = dev.build_module::<Linear<24, 24>, f32>();
    let x: Tensor<Rank2<13, 24>, f32, _> = dev.sample_normal();
    // x is read twice, so that its gradient is a sum whose order would show
    let plain = {
        let y = inner.forward(x.leaky_trace());
        let y = outer.forward(y) + outer.forward(x.clone());
        y.square().mean().backward()
    };
    let gradients = |grads: &Gradients<f32, Cpu>| {
        let mut all = grads.get(&inner.0.weight).as_vec();
        all.extend(grads.get(&inner.0.bias).as_vec());
        all.extend(grads.get(&inner.2.weight).as_vec());
        all.extend(grads.get(&inner.2.bias).as_vec());
        all.extend(grads.get(&outer.weight).as_vec());
        all.extend(grads.get(&x).as_vec());
        all
    };
    let want = gradients(&plain);
    assert!(want.iter().any(|&g| g != 0.0));

    let on_owned = {
        let y = checkpoint(&inner, x.leaky_trace());
        let y = outer.forward(y) + outer.forward(x.clone());
        y.square().mean().backward()
    };
    assert_bitwise_equal("OwnedTape", &gradients(&on_owned), &want);

    for store in [Store::memory(), Store::marshaling()] {
        let y = checkpoint(
            &inner,
            x.clone().put_tape(StoreTape::new(store.clone(), Gradients::leaky())),
        );
        let held = store.report().held_bytes;
        assert_eq!(held, 13 * 24 * size_of::<f32>() as u64, "the input alone is saved");
        let y = outer.forward(y) + outer.forward(x.clone());
        let grads = backward(y.square().mean()).unwrap();
        assert_bitwise_equal("StoreTape", &gradients(&grads), &want);
        assert_eq!(store.report().held_bytes, 0);
    }
}

/// A part that checkpoints a part of its own.
#[derive(Clone)]
struct Nested(BuiltLinear<24, 24, f32, Cpu>);

impl<T: dfdx_edkm::SaveForBackward<Cpu>> Module<Tensor<Rank2<13, 24>, f32, Cpu, T>> for Nested {
    type Output = Tensor<Rank2<13, 24>, f32, Cpu, T>;
    type Error = CpuError;
    fn try_forward(&self, x: Tensor<Rank2<13, 24>, f32, Cpu, T>) -> Result<Self::Output, CpuError> {
        dfdx_edkm::try_checkpoint(&self.0, x)?.try_tanh()
    }
}

#[test]
fn checkpoints_nest() {
    let dev = Cpu::default();
    let linear = dev.build_module::<Linear<24, 24>, f32>();
    let x: Tensor<Rank2<13, 24>, f32, _> = dev.sample_normal();
    let want = linear.forward(x.leaky_trace()).tanh().square().mean().backward();
    let store = Store::marshaling();
    let tape = StoreTape::new(store.clone(), Gradients::leaky());
    let got = backward(
        checkpoint(&Nested(linear.clone()), x.clone().put_tape(tape))
            .square()
            .mean(),
    )
    .unwrap();
    assert_bitwise_equal(
        "weight",
        &got.get(&linear.weight).as_vec(),
        &want.get(&linear.weight).as_vec(),
    );
    assert_bitwise_equal("x", &got.get(&x).as_vec(), &want.get(&x).as_vec());
    assert_eq!(store.report().held_bytes, 0);
}

/// The input in another order of its axes, of the same storage.
#[derive(Clone)]
struct Transposed;

impl<T: dfdx_edkm::SaveForBackward<Cpu>> Module<Tensor<Rank2<40, 24>, f32, Cpu, T>> for Transposed {
    type Output = Tensor<Rank2<24, 40>, f32, Cpu, T>;
    type Error = CpuError;
    fn try_forward(&self, x: Tensor<Rank2<40, 24>, f32, Cpu, T>) -> Result<Self::Output, CpuError> {
        x.try_permute()
    }
}

#[test]
fn a_checkpoint_of_nothing_passes_the_gradient() {
    let dev = Cpu::default();
    let x: Tensor<Rank2<40, 24>, f32, _> = dev.ones();
    // what comes back of a store that compresses is another tensor
    let spec = "compress".parse::<edkm_store::StoreSpec>().unwrap();
    let tape = || StoreTape::new(spec.build().unwrap(), Gradients::leaky());
    let got = backward(checkpoint(&(), x.clone().put_tape(tape())).square().sum()).unwrap();
    assert_eq!(got.get(&x).array(), [[2.0; 24]; 40]);
    let got = backward(checkpoint(&Transposed, x.clone().put_tape(tape())).square().sum()).unwrap();
    assert_eq!(got.get(&x).array(), [[2.0; 24]; 40]);
}

#[test]
fn every_optimizer_trains_the_modules() {
    let dev = Cpu::default();
    let x = input(&dev);
    let loss = |model: &Built| model.forward(x.clone()).square().mean::<Rank0, _>().array();
    let train = |mut model: Built, update: &mut dyn FnMut(&mut Built, &Gradients<f32, Cpu>)| {
        let first = loss(&model);
        for _ in 0..10 {
            let tape = StoreTape::new(Store::marshaling(), model.alloc_grads());
            let grads = backward(model.forward(x.clone().put_tape(tape)).square().mean()).unwrap();
            update(&mut model, &grads);
        }
        assert!(loss(&model) < 0.9 * first, "{} from {first}", loss(&model));
    };
    let model = net(&dev);
    let mut adam = Adam::new(
        &model,
        AdamConfig {
            lr: 1e-2,
            ..Default::default()
        },
    );
    train(model, &mut |m, g| adam.update(m, g).unwrap());
    let model = net(&dev);
    let mut sgd = Sgd::new(
        &model,
        SgdConfig {
            lr: 5e-2,
            ..Default::default()
        },
    );
    train(model, &mut |m, g| sgd.update(m, g).unwrap());
    let mut adamw = AdamWOptimizer::new(dev.clone(), 1e-2, AdamWConfig::default());
    train(net(&dev), &mut |m, g| adamw.update(m, g).unwrap());
    assert_eq!(adamw.adamw.step_count(), 10);
}

#[test]
fn an_update_through_dfdx_keeps_to_rates_and_refuses_what_a_step_does() {
    let dev = Cpu::default();
    type Two = (ClusteredLinear<4, 6>, ReLU, ClusteredLinear<6, 2>);
    let mut model = dev.build_module::<Two, f32>();
    let x: Tensor<Rank2<3, 4>, f32, _> = dev.sample_normal();
    let grads = model.forward(x.traced(Gradients::leaky())).square().mean().backward();
    let weights = |model: &<Two as BuildOnDevice<Cpu, f32>>::Built| [model.0.weight.as_vec(), model.2.weight.as_vec()];
    let before = weights(&model);
    let mut adamw = AdamWOptimizer::new(dev, 1e-2, AdamWConfig::default());
    for name in ["0.weight", "no.weight"] {
        adamw.adamw.set_rate_factors([(name.to_owned(), 0.0)].into());
        let (updated, reason) = dfdx_edkm::with_reason(|| adamw.update(&mut model, &grads));
        assert_eq!(updated.is_ok(), name == "0.weight");
        if let Some(reason) = reason {
            assert!(reason.to_string().contains("no.weight"), "{reason}");
        }
    }
    let after = weights(&model);
    assert_eq!(before[0], after[0], "a frozen parameter");
    assert_ne!(before[1], after[1]);
    assert!(!adamw.adamw.moments().contains_key("0.weight"));
    adamw.adamw.set_rate_factors(Default::default());
    adamw.learning_rate = f64::NAN;
    let refused = adamw.try_update(&mut model, &grads).unwrap_err();
    assert!(refused.to_string().contains("learning rate"), "{refused}");
    assert_eq!(weights(&model), after);
}

#[test]
fn a_weight_has_at_most_as_many_values_as_its_palette() {
    let dev = Cpu::default();
    let linear = dev.build_module::<dfdx::nn::builders::UnbiasedLinear<64, 64>, f32>();
    let spec = Spec::default().with_temperature(edkm_cluster::Temperature::Relative(1e-6));
    let layer = linear.into_clustered(spec);
    // the unit vectors read the weight out
    let identity: Tensor<Rank2<64, 64>, f32, _> = dev.tensor_from_vec(
        (0..64 * 64).map(|i| if i / 64 == i % 64 { 1.0 } else { 0.0 }).collect(),
        (Const, Const),
    );
    let mut values = layer.forward(identity).as_vec();
    values.sort_by(f32::total_cmp);
    values.dedup();
    assert!(values.len() <= 8, "{values:?}");
}

#[test]
fn a_packed_weight_holds_what_its_palettes_say() {
    let dev = Cpu::default();
    let layer = dev.build_module::<UnbiasedLinear<24, 16>, f32>();
    let groups = Grouping::PerChannels(NonZeroUsize::new(5).unwrap());
    let spec = Spec::new(Bits::new(2).unwrap())
        .with_grouping(groups)
        .with_vector(VectorLen::Two);
    let layer = layer.into_clustered(spec);
    let clustering = layer
        .clustering
        .clone()
        .with_channel_scale(ChannelScale::RootMeanSquare);
    let (weight, shape) = (layer.weight.as_vec(), MatrixShape::new(16, 24));
    let learned = clustering.palette(&weight, shape).unwrap();
    let packed = clustering.palettize(&weight, shape, PaletteDType::F32).unwrap();
    assert_eq!(packed.indices(), learned.indices);
    assert_eq!(packed.row_scales(), learned.row_scales.as_deref());
    for group in 0..4 {
        assert_eq!(packed.palette(group), learned.centroids.group(group));
    }
    let error = clustering
        .palettize(&weight[1..], shape, PaletteDType::F32)
        .unwrap_err();
    assert_eq!(error.to_string(), "weights: expected 384 elements, got 383");
}

#[test]
fn a_packed_weight_takes_the_nearest_number_of_the_file() {
    let dev = Cpu::default();
    let layer = dev.build_module::<UnbiasedLinear<24, 16>, f32>();
    let layer = layer.into_clustered(Spec::new(Bits::new(6).unwrap()));
    let (weight, shape) = (layer.weight.as_vec(), MatrixShape::new(16, 24));
    let packed = layer.clustering.palettize(&weight, shape, PaletteDType::I8).unwrap();
    // as all that is clustered, weights count as bf16
    let far = |weight: f32, entry: f32| (f64::from(half::bf16::from_f32(weight)) - f64::from(entry)).abs();
    for (at, (&weight, got)) in weight.iter().zip(packed.dequantize()).enumerate() {
        let entries = packed.palette(0).iter().map(|&entry| far(weight, entry));
        let nearest = entries.fold(f64::INFINITY, f64::min);
        assert!(
            far(weight, got) <= nearest + 1e-8,
            "weight {at}: {weight} took {got}, where one is {nearest} from it"
        );
    }
}

#[test]
fn a_module_on_another_device_computes_alike() {
    let dev = Cpu::default();
    let spec = Spec::new(Bits::new(1).unwrap());
    let linear = dev.build_module::<Linear<24, 16>, f32>().into_clustered(spec);
    let embedding = dev.build_module::<Embedding<24, 16>, f32>().into_clustered(spec);
    let unbiased = dev.build_module::<UnbiasedLinear<24, 16>, f32>().into_clustered(spec);
    let x = input(&dev);
    let y = linear.forward(x.clone());

    let there = linear.to_device(&dev);
    assert_eq!(there.clustering.spec(), spec);
    assert_eq!(there.clustering.state(), linear.clustering.state());
    assert_eq!(there.forward(x).array(), y.array());
    assert_eq!(embedding.to_device(&dev).clustering.spec(), spec);
    assert_eq!(unbiased.to_device(&dev).clustering.spec(), spec);

    let mut norm = dev.build_module::<RmsNorm<24>, f32>();
    norm.eps = 1e-6;
    assert_eq!((norm.to_device(&dev).eps, norm.to_dtype::<f64>().eps), (1e-6, 1e-6));
}

#[test]
fn a_weight_that_is_loaded_starts_anew_after_a_reset() {
    let dev = Cpu::default();
    let file = std::env::temp_dir().join(format!("dfdx-edkm-reset-{}.safetensors", std::process::id()));
    let x = input(&dev);
    let saved = dev.build_module::<ClusteredLinear<24, 40>, f32>();
    let mut loaded = dev.build_module::<ClusteredLinear<24, 40>, f32>();
    // of weights far from those that it will have
    loaded.weight = loaded.weight * 100.0 + 50.0;
    loaded.forward(x.clone());
    saved.save_safetensors(&file).unwrap();
    loaded.load_safetensors(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    loaded.clustering.reset();
    assert_eq!(loaded.forward(x.clone()).array(), saved.forward(x).array());
}
