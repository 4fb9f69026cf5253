//! A step: clipping, the scale of gradients, decay and rates, each beside what it is defined to be.

use dfdx::prelude::*;
use dfdx_edkm::optim::{AdamW, AdamWConfig, AdamWKernel, MomentFormat, Moments};
use dfdx_edkm::{ParameterKind, ParameterVisitor, Parameters};
use edkm_testkit::{assert_bitwise_equal, assert_close, random};

/// A parameter of each kind.
struct Three {
    matrix: Tensor<Rank2<4, 6>, f32, Cpu>,
    table: Tensor<Rank2<3, 4>, f32, Cpu>,
    vector: Tensor<Rank1<6>, f32, Cpu>,
}

impl Parameters<Cpu> for Three {
    fn visit_parameters<V: ParameterVisitor<Cpu>>(&mut self, _: &str, visitor: &mut V) -> Result<(), V::Error> {
        let linear = ParameterKind::Linear { clustering: None };
        visitor.visit("matrix", linear, &mut self.matrix)?;
        let embedding = ParameterKind::Embedding { clustering: None };
        visitor.visit("table", embedding, &mut self.table)?;
        visitor.visit("vector", ParameterKind::Vector, &mut self.vector)
    }
}

const NUMBERS: usize = 24 + 12 + 6;

impl Three {
    fn new() -> Self {
        let dev = Cpu::default();
        Self {
            matrix: dev.tensor(random(1, 24)),
            table: dev.tensor(random(2, 12)),
            vector: dev.tensor(random(3, 6)),
        }
    }

    fn numbers(&self) -> [Vec<f32>; 3] {
        [self.matrix.as_vec(), self.table.as_vec(), self.vector.as_vec()]
    }

    /// Steps with these gradients of all numbers; returns the norm.
    fn step(&mut self, optimizer: &mut AdamW<Cpu>, of: &[f32], rate: f64, scale: f64) -> f64 {
        let dev = Cpu::default();
        let buffer = |of: &[f32]| dev.buffer_from_vec(of.to_vec()).unwrap();
        let mut gradients = Gradients::leaky();
        *gradients.get_or_alloc_mut(&self.matrix).unwrap() = buffer(&of[..24]);
        *gradients.get_or_alloc_mut(&self.table).unwrap() = buffer(&of[24..36]);
        *gradients.get_or_alloc_mut(&self.vector).unwrap() = buffer(&of[36..]);
        optimizer.step(self, &mut gradients, rate, scale).unwrap()
    }
}

fn optimizer(config: AdamWConfig) -> AdamW<Cpu> {
    AdamW::new(Cpu::default(), config)
}

/// The gradients that were heeded, in the order of [`Three`]: after one step the first moments are a tenth of them.
fn heeded(optimizer: &AdamW<Cpu>) -> Vec<f32> {
    let first = optimizer.moments().values().map(|moments| match moments {
        Moments::F32 { first, .. } => first.as_slice(),
        Moments::EightBit { .. } => panic!("moments of 8 bits"),
    });
    let first: Vec<&[f32]> = first.collect();
    first.concat().iter().map(|m| m * 10.0).collect()
}

fn norm(of: &[f32]) -> f64 {
    of.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt()
}

fn times(of: &[f32], factor: f64) -> Vec<f64> {
    of.iter().map(|&g| f64::from(g) * factor).collect()
}

#[test]
fn defaults_are_those_of_language_models() {
    let usual = AdamWConfig {
        betas: [0.9, 0.95],
        eps: 1e-8,
        weight_decay: 0.0,
        clip_norm: 1.0,
        moments: MomentFormat::F32,
    };
    assert_eq!(AdamWConfig::default(), usual);
}

#[test]
fn gradients_are_clipped_together_to_the_norm() {
    let of = random(4, NUMBERS);
    for clip_norm in [1e-3, 0.5 * norm(&of), 2.0 * norm(&of)] {
        let mut optimizer = optimizer(AdamWConfig {
            clip_norm,
            ..AdamWConfig::default()
        });
        let found = Three::new().step(&mut optimizer, &of, 1e-2, 1.0);
        assert_close("norm", &[found as f32], &[norm(&of)], 1e-6);
        let factor = (clip_norm / norm(&of)).min(1.0);
        assert_close("clipped", &heeded(&optimizer), &times(&of, factor), 1e-5);
    }
}

/// As of the mean of two batches, whose sum is what there is.
#[test]
fn gradients_are_scaled_before_they_are_clipped() {
    let of = random(4, NUMBERS);
    for share_of_norm in [0.25, 0.75] {
        let mut optimizer = optimizer(AdamWConfig {
            clip_norm: share_of_norm * norm(&of),
            ..AdamWConfig::default()
        });
        let found = Three::new().step(&mut optimizer, &of, 1e-2, 0.5);
        assert_close("norm", &[found as f32], &[0.5 * norm(&of)], 1e-6);
        let factor = f64::min(share_of_norm, 0.5);
        assert_close("scaled", &heeded(&optimizer), &times(&of, factor), 1e-5);
    }
}

#[test]
fn matrices_and_tables_decay_and_vectors_do_not() {
    let mut model = Three::new();
    let before = model.numbers();
    let mut optimizer = optimizer(AdamWConfig {
        weight_decay: 0.1,
        ..AdamWConfig::default()
    });
    model.step(&mut optimizer, &[0.0; NUMBERS], 1e-2, 1.0);
    let [matrix, table, vector] = model.numbers();
    assert_close("matrix", &matrix, &times(&before[0], 0.999), 1e-6);
    assert_close("table", &table, &times(&before[1], 0.999), 1e-6);
    assert_bitwise_equal("vector", &vector, &before[2]);
}

/// The first step of each number is as long as the rate, whatever its gradient.
#[test]
fn a_factor_is_one_of_the_rate() {
    let of = random(4, NUMBERS);
    let mut model = Three::new();
    let before = model.numbers();
    let mut optimizer = optimizer(AdamWConfig::default());
    optimizer.set_rate_factors([("table".to_owned(), 0.5), ("vector".to_owned(), 3.0)].into());
    model.step(&mut optimizer, &of, 1e-2, 1.0);
    for ((before, after), rate) in before.iter().zip(model.numbers()).zip([1e-2, 5e-3, 3e-2]) {
        let moved: Vec<f32> = before
            .iter()
            .zip(&after)
            .map(|(before, after)| (before - after).abs())
            .collect();
        assert_close("moved", &moved, &vec![rate; moved.len()], 1e-4);
    }
}
