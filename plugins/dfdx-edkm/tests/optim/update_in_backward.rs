//! Updates within the backward pass: the numbers of a step after it, and what is left where a gradient is not finite.

use dfdx::prelude::*;
use dfdx_edkm::optim::{AdamW, AdamWConfig, Moments, StepError};
use dfdx_edkm::{backward, ParameterKind, ParameterVisitor, Parameters, ParametersByPart, SaveForBackward, StoreTape};
use edkm_store::Store;
use edkm_testkit::{assert_bitwise_equal, assert_close, random};

type Matrix = Tensor<Rank2<4, 4>, f32, Cpu>;

/// Two matrices, of which the first is used twice.
#[derive(Clone)]
struct Two {
    first: Matrix,
    second: Matrix,
    /// Which of the uses say that a part begins.
    says: [bool; 3],
}

impl Two {
    fn new(says: [bool; 3]) -> Self {
        let dev = Cpu::default();
        Two {
            first: dev.tensor(random(1, 16)),
            second: dev.tensor(random(2, 16)),
            says,
        }
    }

    fn loss(&self, x: Matrix) -> Tensor<Rank0, f32, Cpu, StoreTape<f32, Cpu>> {
        let mut y = x.put_tape(StoreTape::new(Store::marshaling(), Gradients::leaky()));
        let uses = [(0, &self.first), (0, &self.first), (1, &self.second)];
        for ((part, matrix), says) in uses.into_iter().zip(self.says) {
            let (input, mut tape) = y.split_tape();
            if says {
                tape.begin_part(part);
            }
            y = input.put_tape(tape).matmul(matrix.clone());
        }
        y.square().mean()
    }

    fn numbers(&self) -> [Vec<f32>; 2] {
        [self.first.as_vec(), self.second.as_vec()]
    }
}

impl Parameters<Cpu> for Two {
    fn visit_parameters<V: ParameterVisitor<Cpu>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        (0..self.parts()).try_for_each(|part| self.visit_part(part, prefix, visitor))
    }
}

impl ParametersByPart<Cpu> for Two {
    fn parts(&self) -> usize {
        2
    }

    fn visit_part<V: ParameterVisitor<Cpu>>(&mut self, part: usize, _: &str, visitor: &mut V) -> Result<(), V::Error> {
        let (name, parameter) = match part {
            0 => ("first", &mut self.first),
            _ => ("second", &mut self.second),
        };
        visitor.visit(name, ParameterKind::Linear { clustering: None }, parameter)
    }
}

fn optimizer() -> AdamW<Cpu> {
    let config = AdamWConfig {
        clip_norm: f64::INFINITY,
        weight_decay: 0.1,
        ..AdamWConfig::default()
    };
    AdamW::new(Cpu::default(), config)
}

#[test]
fn the_numbers_are_those_of_a_step_after_backward() {
    // every use says so, the first alone, one part never, none at all
    for says in [[true; 3], [true, false, true], [true, true, false], [false; 3]] {
        let (mut after, mut within) = (Two::new(says), Two::new(says));
        let (mut one, mut other) = (optimizer(), optimizer());
        for seed in 3..6 {
            let x: Matrix = Cpu::default().tensor(random(seed, 16));
            let mut gradients = backward(after.loss(x.clone())).unwrap();
            let norm = one.step(&mut after, &mut gradients, 1e-2, 1.0).unwrap();
            let loss = within.loss(x);
            assert_eq!(other.backward_and_step(&mut within, loss, 1e-2).unwrap(), norm);
        }
        assert_bitwise_equal("first", &within.first.as_vec(), &after.first.as_vec());
        assert_bitwise_equal("second", &within.second.as_vec(), &after.second.as_vec());
        assert_eq!(other.state().unwrap(), one.state().unwrap());
    }
}

#[test]
fn the_gradients_of_each_part_are_clipped_to_its_share() {
    let clip_norm = 1e-3;
    let config = AdamWConfig {
        clip_norm,
        ..AdamWConfig::default()
    };
    // the squares of a part have half of those of the norm, also where both matrices come together at the end
    let half = clip_norm * clip_norm / 2.0;
    for (says, expected) in [([true; 3], vec![half, half]), ([false; 3], vec![half])] {
        let (mut model, mut optimizer) = (Two::new(says), AdamW::new(Cpu::default(), config));
        let loss = model.loss(Cpu::default().tensor(random(3, 16)));
        assert!(optimizer.backward_and_step(&mut model, loss, 1e-2).unwrap() > 100.0 * clip_norm);
        // the first moments are a tenth of the clipped gradients
        let squares = optimizer.moments().values().map(|moments| match moments {
            Moments::F32 { first, .. } => first.iter().map(|&m| f64::from(10.0 * m).powi(2)).sum(),
            Moments::EightBit { .. } => panic!("moments of 8 bits"),
        });
        let squares: Vec<f64> = match expected.len() {
            1 => vec![squares.sum()],
            _ => squares.collect(),
        };
        assert_close("squares", &squares, &expected, 1e-4);
    }
}

#[test]
fn a_parameter_is_changed_where_it_lies() {
    let mut model = Two::new([true; 3]);
    let mut optimizer = optimizer();
    let place = |model: &Two| [&model.first, &model.second].map(|matrix| std::ptr::from_ref(&matrix[[0, 0]]));
    let before = place(&model);
    let loss = model.loss(Cpu::default().tensor(random(3, 16)));
    optimizer.backward_and_step(&mut model, loss, 1e-2).unwrap();
    assert_eq!(place(&model), before);
}

/// The parameter whose gradient is said not to be finite, in a step of `model` on an input of so large numbers.
fn overflow(model: &mut Two, optimizer: &mut AdamW<Cpu>, x: f32) -> String {
    let loss = model.loss(Cpu::default().tensor([[x; 4]; 4]));
    assert!(loss.array().is_finite());
    match optimizer.backward_and_step(model, loss, 1e-2) {
        Err(StepError::NotFinite { parameter }) => parameter,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_behind_a_gradient_that_is_not_finite_is_updated_and_the_rest_left() {
    let dev = Cpu::default();
    // loss and hidden states are within f32, and the gradient of the first matrix, the loss over so small numbers, is not
    let mut model = Two {
        first: dev.tensor([[1e-19; 4]; 4]),
        second: dev.tensor([[1.5e16; 4]; 4]),
        says: [true; 3],
    };
    let (before, mut optimizer) = (model.numbers(), optimizer());
    assert_eq!(overflow(&mut model, &mut optimizer, 1e38), "first");
    assert_eq!(model.numbers()[0], before[0]);
    assert_ne!(model.numbers()[1], before[1]);
    assert_eq!(optimizer.step_count(), 1);
    // a state that is saved now has moments of both
    assert_eq!(
        Vec::from_iter(optimizer.state().unwrap().moments.keys()),
        ["first", "second"]
    );
}

#[test]
fn a_step_that_changes_nothing_does_not_count() {
    let dev = Cpu::default();
    let mut model = Two {
        first: dev.tensor([[4e17; 4]; 4]),
        second: dev.tensor([[1e-19; 4]; 4]),
        says: [true; 3],
    };
    let (before, mut optimizer) = (model.numbers(), optimizer());
    assert_eq!(overflow(&mut model, &mut optimizer, 1.0), "second");
    assert_eq!(model.numbers(), before);
    assert_eq!(optimizer.step_count(), 0);
    assert!(optimizer.moments().is_empty());
}

#[test]
fn a_rate_that_is_no_number_changes_nothing() {
    let mut model = Two::new([true; 3]);
    let before = model.numbers();
    let loss = model.loss(Cpu::default().tensor(random(3, 16)));
    let error = optimizer()
        .backward_and_step(&mut model, loss, f64::INFINITY)
        .unwrap_err();
    assert_eq!(error.to_string(), "the learning rate is inf");
    assert_eq!(model.numbers(), before);
}
