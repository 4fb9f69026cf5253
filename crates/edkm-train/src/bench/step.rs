//! A whole training step of a model with random weights: how long, where the time goes, and how long its matrix products take alone.

use std::collections::BTreeMap;
use std::time::Instant;

use dfdx::prelude::*;
use dfdx_edkm::optim::AdamWConfig;
use edkm_cluster::bench::median;
use edkm_kernels::matmul::{self, Accumulate};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{DynamicLlama, Recompute};
use edkm_llama::names::{parameters, Role};
use edkm_store::Store;
use rand_chacha::rand_core::RngCore;

use super::phases::{Phase, PhaseTimes};
use crate::data::sampler::WindowSampler;
use crate::data::TokenStream;
use crate::init::random_weights;
use crate::memory::peak_resident_bytes;
use crate::random::generator;
use crate::run::ClusterSettings;
use crate::schedule::LearningRate;
use crate::trainer::{Trainer, TrainerSettings};
use crate::TrainError;

/// The step.
#[derive(Debug, Clone)]
pub struct StepSettings {
    /// The model.
    pub config: LlamaConfig,
    /// How it is clustered; `None`: not at all.
    pub clustering: Option<ClusterSettings>,
    /// Tokens of a sequence.
    pub sequence: usize,
    /// Sequences.
    pub batch: usize,
    /// What layers save.
    pub recompute: Recompute,
    /// Steps, of which the median is taken.
    pub repeats: usize,
}

/// What [`run`] measured.
#[derive(Debug, Clone, PartialEq)]
pub struct StepBench {
    /// Median of the seconds of a step.
    pub seconds: f64,
    /// Medians of the seconds of each phase, in the order of [`Phase::ALL`].
    pub phases: [f64; Phase::ALL.len()],
    /// Seconds of the products of all linear layers and of the output projection: y = x W^T, dx = dy W, dW = dy^T x, each once.
    pub matmul_seconds: f64,
    /// Floating point operations of these products.
    pub matmul_flop: f64,
    /// The most resident memory the process has had.
    pub peak_rss_bytes: Option<u64>,
}

/// Measures `repeats` steps (at least one) after one that is not counted; `times` must be a layer of the subscriber in use.
///
/// Memory: 16 bytes a parameter (weight, gradient, two moments), and the activations.
///
/// # Errors
/// A sequence of no tokens or more than the model has positions; a step that fails.
pub fn run(settings: &StepSettings, device: &Cpu, times: &PhaseTimes) -> Result<StepBench, TrainError> {
    let StepSettings {
        config,
        clustering,
        sequence,
        batch,
        recompute,
        repeats,
    } = settings;
    if *sequence == 0 || *sequence > config.max_position_embeddings || *batch == 0 {
        return Err(TrainError::Setting {
            setting: "--seq and --batch",
            value: format!("{sequence} and {batch}"),
            expected: "at least 1, and no more tokens than the model has positions",
        });
    }
    let steps = repeats.max(&1) + 1;
    let mut model = DynamicLlama::from_weights(config, device, &mut random_weights(0, config.num_hidden_layers, 0.02))?;
    model.recompute = *recompute;
    if let Some(clustering) = clustering {
        model.set_clustering(clustering);
    }
    let settings = TrainerSettings {
        learning_rate: LearningRate::cosine(1e-4, steps as u64)?,
        temperature: clustering.as_ref().map(|clustering| clustering.temperature),
        optimizer: AdamWConfig::default(),
        batch: *batch,
        accumulate: 1,
    };
    let mut random = generator(2, 0);
    let tokens = (0..(batch + 2) * sequence).map(|_| random.next_u32() % config.vocab_size as u32);
    let stream = TokenStream::from_tokens(tokens.collect());
    let mut sampler = WindowSampler::new(&stream, *sequence, 0)?;
    let mut trainer = Trainer::new(model, device.clone(), settings, Store::marshaling());

    let mut seconds = Vec::new();
    let mut phases: [Vec<f64>; Phase::ALL.len()] = Default::default();
    for step in 0..steps {
        let before = Phase::ALL.map(|phase| times.get(phase));
        let start = Instant::now();
        trainer.step(&mut sampler)?;
        let elapsed = start.elapsed().as_secs_f64();
        if step > 0 {
            seconds.push(elapsed);
            for ((phase, before), phases) in Phase::ALL.into_iter().zip(before).zip(&mut phases) {
                phases.push((times.get(phase).saturating_sub(before)).as_secs_f64());
            }
        }
    }
    let peak_rss_bytes = peak_resident_bytes();
    drop(trainer);
    let (matmul_seconds, matmul_flop) = matrix_products(config, batch * sequence);
    Ok(StepBench {
        seconds: median(seconds),
        phases: phases.map(median),
        matmul_seconds,
        matmul_flop,
        peak_rss_bytes,
    })
}

/// Seconds and operations of a step's products with weights, by the kernels of the ops, each shape timed alone (median of five).
fn matrix_products(config: &LlamaConfig, tokens: usize) -> (f64, f64) {
    let mut shapes = BTreeMap::new();
    for parameter in parameters(config) {
        let is_product = match parameter.role {
            Role::Linear | Role::Head => true,
            Role::Embedding => config.tie_word_embeddings,
            Role::Bias | Role::Norm => false,
        };
        if let (true, &[outputs, inputs]) = (is_product, parameter.shape.as_slice()) {
            *shapes.entry((outputs, inputs)).or_insert(0) += 1;
        }
    }
    let (mut seconds, mut flop) = (0.0, 0.0);
    for ((outputs, inputs), count) in shapes {
        let mut random = generator(3, 0);
        let mut numbers = |len| -> Vec<f32> {
            (0..len)
                .map(|_| random.next_u32() as i32 as f32 / 2f32.powi(31))
                .collect()
        };
        // the output projection runs in chunks of tokens, whose logits stay below 64 MiB
        let rows = tokens.min(((16 << 20) / outputs).max(16));
        let (x, w, dy) = (
            numbers(rows * inputs),
            numbers(outputs * inputs),
            numbers(rows * outputs),
        );
        let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
        let mut times = Vec::new();
        for _ in 0..6 {
            let start = Instant::now();
            matmul::nt(rows, outputs, inputs, &x, &w, &mut y, Accumulate::Overwrite);
            matmul::nn(rows, inputs, outputs, &dy, &w, &mut dx, Accumulate::Add);
            matmul::tn(outputs, inputs, rows, &dy, &x, &mut dw, Accumulate::Add);
            times.push(start.elapsed().as_secs_f64());
        }
        times.remove(0);
        seconds += count as f64 * median(times) * tokens as f64 / rows as f64;
        flop += 6.0 * (count * tokens * outputs * inputs) as f64;
    }
    (seconds, flop)
}

#[cfg(test)]
mod tests {
    use edkm_cluster::Bits;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_phases_are_parts_of_the_step() {
        let config = r#"{"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16, "tie_word_embeddings": true}"#;
        let settings = StepSettings {
            config: LlamaConfig::from_json(std::path::Path::new("test"), config).unwrap(),
            clustering: Some(ClusterSettings::new(Bits::new(3).unwrap(), 2)),
            sequence: 16,
            batch: 2,
            recompute: Recompute::Nothing,
            repeats: 1,
        };
        let times = PhaseTimes::default();
        let subscriber = tracing_subscriber::registry().with(times.clone());
        let device = Cpu::default();
        let bench = tracing::subscriber::with_default(subscriber, || run(&settings, &device, &times)).unwrap();
        assert!(bench.phases.iter().all(|&seconds| seconds > 0.0), "{bench:?}");
        assert!(bench.phases.iter().sum::<f64>() <= bench.seconds, "{bench:?}");
        // per layer q and o 32 x 32, k and v 16 x 32, three of 32 x 48; the head 64 x 32
        let weights = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48) + 64 * 32;
        assert_eq!(bench.matmul_flop, 6.0 * 32.0 * weights as f64);
        let too_long = StepSettings {
            sequence: 17,
            ..settings
        };
        assert!(run(&too_long, &device, &times).is_err());
    }
}
