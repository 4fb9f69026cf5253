//! AdamW on the GPU, beside the CPU.

use dfdx::prelude::*;
use dfdx_edkm::device::DeviceMemory;
use dfdx_edkm::optim::{AdamW, AdamWConfig, AdamWKernel, MomentFormat, StepError};
use dfdx_edkm::{backward, ChannelScale, EdkmDevice, ParameterKind, ParameterVisitor, Parameters, StoreTape};
use edkm_cluster::Spec;
use edkm_store::Store;
use edkm_testkit::{assert_bitwise_equal, assert_close};

use crate::net::{Loss, Net};
use crate::{gpu, random};

/// More than what keeps f32 moments in any case, and no whole blocks.
const LEN: usize = 5000;

struct One<D: EdkmDevice>(Tensor<(usize,), f32, D>);

impl<D: EdkmDevice> Parameters<D> for One<D> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        let kind = ParameterKind::Linear { clustering: None };
        visitor.visit(&format!("{prefix}one"), kind, &mut self.0)
    }
}

/// Parameter and norms after three steps on the same gradients, the optimizer saved and restored after the first.
fn steps<D: EdkmDevice>(device: &D, moments: MomentFormat) -> (Vec<f32>, Vec<f64>) {
    let config = AdamWConfig {
        weight_decay: 0.1,
        moments,
        ..AdamWConfig::default()
    };
    let mut model = One(device.tensor_from_host(random(1, LEN), (LEN,)).unwrap());
    let mut optimizer = AdamW::new(device.clone(), config);
    let mut norms = Vec::new();
    for step in 0..3 {
        let mut gradients = Gradients::leaky();
        *gradients.get_or_alloc_mut(&model.0).unwrap() = device.buffer_from_vec(random(10 + step, LEN)).unwrap();
        norms.push(optimizer.step(&mut model, &mut gradients, 1e-2, 1.0).unwrap());
        let state = optimizer.state().unwrap();
        optimizer = AdamW::from_state(device.clone(), state).unwrap();
    }
    (model.0.as_vec(), norms)
}

#[test]
fn steps_are_those_of_the_cpu() {
    // the norms are sums in another order, in f64: they clip in f32, and that may turn a code that is rounded
    for (moments, bound) in [(MomentFormat::F32, 1e-6), (MomentFormat::EightBit, 1e-4)] {
        let (want, want_norms) = steps(&Cpu::default(), moments);
        let (got, norms) = steps(&gpu(), moments);
        assert_close("norms", &norms, &want_norms, 1e-12);
        assert_close("parameter", &got, &want, bound);
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let dev = gpu();
    let mut model = One(dev.tensor_from_host(random(1, LEN), (LEN,)).unwrap());
    let mut optimizer = AdamW::new(dev.clone(), AdamWConfig::default());
    let mut numbers = random(2, LEN);
    numbers[500] = f32::NAN;
    let mut gradients = Gradients::leaky();
    *gradients.get_or_alloc_mut(&model.0).unwrap() = dev.buffer_from_vec(numbers).unwrap();
    match optimizer.step(&mut model, &mut gradients, 1e-2, 1.0) {
        Err(StepError::NotFinite { parameter }) => assert_eq!(parameter, "one"),
        other => panic!("{other:?}"),
    }
    assert_bitwise_equal("parameter", &model.0.as_vec(), &random(1, LEN));
}

#[test]
fn dfdx_own_permuted_parameters_are_refused() {
    struct Turned<D: EdkmDevice>(Tensor<(usize, usize), f32, D>);
    impl<D: EdkmDevice> Parameters<D> for Turned<D> {
        fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
            visitor.visit(&format!("{prefix}turned"), ParameterKind::Vector, &mut self.0)
        }
    }
    let dev = gpu();
    let straight = dev.tensor_from_host(random(1, 6), (2, 3)).unwrap();
    let mut model = Turned(straight.permute::<(usize, usize), Axes2<1, 0>>());
    let mut optimizer = AdamW::new(dev.clone(), AdamWConfig::default());
    match optimizer.step(&mut model, &mut Gradients::leaky(), 1e-2, 1.0) {
        Err(StepError::Device { parameter, .. }) => assert_eq!(parameter, "turned"),
        other => panic!("{other:?}"),
    }
}

/// A loss with its tape.
type Taped<D> = Tensor<Rank0, f32, D, StoreTape<f32, D>>;

/// Losses of a few steps of training, each made by `step`.
fn losses<D: EdkmDevice>(
    device: &D,
    spec: Option<Spec>,
    step: impl Fn(&mut AdamW<D>, &mut Net<D>, Taped<D>),
) -> Vec<f32> {
    let config = AdamWConfig {
        clip_norm: f64::INFINITY,
        ..AdamWConfig::default()
    };
    let mut net = Net::new(device, 6, spec, ChannelScale::None);
    let mut optimizer = AdamW::new(device.clone(), config);
    let losses = (0..5).map(|_| {
        let tape = StoreTape::new(Store::marshaling(), Gradients::leaky());
        let loss = net.loss(Loss::Text, tape).unwrap();
        let value = loss.as_vec()[0];
        step(&mut optimizer, &mut net, loss);
        value
    });
    losses.collect()
}

fn after_backward<D: EdkmDevice>(optimizer: &mut AdamW<D>, net: &mut Net<D>, loss: Taped<D>) {
    let mut gradients = backward(loss).unwrap();
    optimizer.step(net, &mut gradients, 1e-2, 1.0).unwrap();
}

fn in_backward<D: EdkmDevice>(optimizer: &mut AdamW<D>, net: &mut Net<D>, loss: Taped<D>) {
    optimizer.backward_and_step(net, loss, 1e-2).unwrap();
}

#[test]
fn training_goes_the_way_of_the_cpu() {
    for spec in [None, Some(Spec::default())] {
        let want = losses(&Cpu::default(), spec, after_backward);
        let got = losses(&gpu(), spec, after_backward);
        assert!(want[4] < 0.9 * want[0], "{want:?}");
        // differences in the last bits grow from step to step
        assert_close("losses", &got, &want, 1e-3);
        assert_bitwise_equal("in backward", &losses(&gpu(), spec, in_backward), &got);
    }
}
