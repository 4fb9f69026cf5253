//! Moments of 8 bits: what they take, and that a state goes on as if it had not been saved.

use dfdx::prelude::*;
use dfdx_edkm::optim::{AdamW, AdamWConfig, AdamWKernel, MomentFormat, Moments};
use dfdx_edkm::{ParameterKind, ParameterVisitor, Parameters};
use edkm_testkit::{assert_bitwise_equal, random};

/// A matrix, and a vector that is too small for codes.
struct Two(Tensor<Rank2<80, 64>, f32, Cpu>, Tensor<Rank1<64>, f32, Cpu>);

impl Parameters<Cpu> for Two {
    fn visit_parameters<V: ParameterVisitor<Cpu>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        let kind = ParameterKind::Linear { clustering: None };
        visitor.visit(&format!("{prefix}matrix"), kind, &mut self.0)?;
        visitor.visit(&format!("{prefix}vector"), ParameterKind::Vector, &mut self.1)
    }
}

impl Two {
    fn new() -> Self {
        let dev = Cpu::default();
        Two(dev.tensor(random(1, 80 * 64)), dev.tensor(random(2, 64)))
    }

    /// A step towards zero, from gradients that are the numbers themselves and some noise.
    fn step(&mut self, optimizer: &mut AdamW<Cpu>, seed: u64) {
        let dev = Cpu::default();
        let noisy = |numbers: Vec<f32>, noise: Vec<f32>| numbers.iter().zip(noise).map(|(x, n)| x + 0.5 * n).collect();
        let mut gradients = Gradients::leaky();
        let of = noisy(self.0.as_vec(), random(seed, 80 * 64));
        *gradients.get_or_alloc_mut(&self.0).unwrap() = dev.buffer_from_vec(of).unwrap();
        let of = noisy(self.1.as_vec(), random(seed, 64));
        *gradients.get_or_alloc_mut(&self.1).unwrap() = dev.buffer_from_vec(of).unwrap();
        optimizer.step(self, &mut gradients, 1e-2, 1.0).unwrap();
    }

    fn loss(&self) -> f32 {
        self.0.as_vec().iter().map(|x| x * x).sum()
    }
}

fn optimizer(moments: MomentFormat) -> AdamW<Cpu> {
    let config = AdamWConfig {
        moments,
        ..AdamWConfig::default()
    };
    AdamW::new(Cpu::default(), config)
}

#[test]
fn a_matrix_takes_two_bytes_a_number_and_small_parameters_eight() {
    let (mut model, mut optimizer) = (Two::new(), optimizer(MomentFormat::EightBit));
    model.step(&mut optimizer, 3);
    let state = optimizer.state().unwrap();
    let bytes = |name| match &state.moments[name] {
        Moments::F32 { first, second } => 4 * (first.len() + second.len()),
        Moments::EightBit { first, second, scales } => first.len() + second.len() + 4 * scales.len(),
    };
    for (name, len, want) in [("matrix", 80 * 64, 2 * 80 * 64 + 20 * 8), ("vector", 64, 8 * 64)] {
        assert_eq!(bytes(name), want);
        assert_eq!(MomentFormat::EightBit.bytes(len), want as u64);
        assert_eq!(MomentFormat::F32.bytes(len), 8 * len as u64);
    }
}

#[test]
fn a_saved_state_goes_on_as_if_it_had_not_been() {
    let (mut model, mut optimizer) = (Two::new(), optimizer(MomentFormat::EightBit));
    let mut saved = (Two::new(), self::optimizer(MomentFormat::EightBit));
    for seed in 0..6 {
        model.step(&mut optimizer, seed);
        saved.0.step(&mut saved.1, seed);
        saved.1 = AdamW::from_state(Cpu::default(), saved.1.state().unwrap()).unwrap();
    }
    assert_bitwise_equal("matrix", &saved.0 .0.as_vec(), &model.0.as_vec());
    assert_bitwise_equal("vector", &saved.0 .1.as_vec(), &model.1.as_vec());
}

#[test]
fn training_goes_the_way_of_f32_moments() {
    let losses = [MomentFormat::F32, MomentFormat::EightBit].map(|format| {
        let (mut model, mut optimizer) = (Two::new(), optimizer(format));
        (0..60).for_each(|seed| model.step(&mut optimizer, seed));
        model.loss()
    });
    assert!(losses[0] < 0.3 * Two::new().loss(), "{losses:?}");
    assert!((losses[1] / losses[0] - 1.0).abs() < 0.02, "{losses:?}");
}

#[test]
fn a_state_of_another_size_is_refused_before_anything_changes() {
    let (mut model, mut optimizer) = (Two::new(), optimizer(MomentFormat::EightBit));
    model.step(&mut optimizer, 3);
    let state = optimizer.state().unwrap();
    let spoilt = |name: &str| {
        let mut state = state.clone();
        match state.moments.get_mut(name).unwrap() {
            Moments::EightBit { scales, .. } => drop(scales.pop()),
            Moments::F32 { second, .. } => drop(second.pop()),
        }
        AdamW::from_state(Cpu::default(), state).unwrap()
    };
    // the vector is updated behind the matrix
    for name in ["matrix", "vector"] {
        let mut optimizer = spoilt(name);
        let mut gradients = Gradients::leaky();
        let before = [model.0.as_vec(), model.1.as_vec()];
        let error = optimizer.step(&mut model, &mut gradients, 1e-2, 1.0).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!([model.0.as_vec(), model.1.as_vec()], before);
        assert_eq!(optimizer.step_count(), 1);
    }
}

#[test]
fn a_clone_goes_its_own_way_and_what_is_printed_is_short() {
    let (mut model, mut optimizer) = (Two::new(), optimizer(MomentFormat::F32));
    model.step(&mut optimizer, 3);
    let before = optimizer.state().unwrap();
    let mut clone = optimizer.clone();
    model.step(&mut clone, 4);
    assert_eq!(optimizer.state().unwrap(), before);
    assert_ne!(clone.state().unwrap().moments, before.moments);
    let printed = format!("{clone:?}");
    assert!(printed.contains("step: 2") && printed.len() < 400, "{printed}");
}
