//! A whole training step of a model with random weights: how long, where the time goes, and how long its matrix products take alone.

use std::collections::BTreeMap;
use std::time::Instant;

use dfdx_edkm::optim::{AdamWConfig, MomentFormat};
use dfdx_edkm::EdkmDevice;
use edkm_cluster::bench::median;
use edkm_kernels::cross_entropy::tokens_at_once;
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{DynamicLlama, Recompute};
use edkm_llama::names::{parameters, Role};
use edkm_store::StoreSpec;
use rand_chacha::rand_core::RngCore;

use super::phases::{Phase, PhaseTimes};
use crate::data::sampler::WindowSampler;
use crate::data::TokenStream;
use crate::device_share::DeviceShare;
use crate::init::random_weights;
use crate::memory::{available_bytes, peak_resident_bytes};
use crate::optimizer_bytes::{gradient_bytes, moment_bytes};
use crate::random::generator;
use crate::run::ClusterSettings;
use crate::schedule::LearningRate;
use crate::trainer::{Trainer, TrainerSettings, Update};
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
    /// How the optimizer keeps its moments.
    pub moments: MomentFormat,
    /// When parameters are updated.
    pub update: Update,
    /// What layers save.
    pub recompute: Recompute,
    /// Where it goes.
    pub store: StoreSpec,
    /// How much of it stays in the memory of the device.
    pub device_share: DeviceShare,
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
    /// Memory of the device that is taken after the steps, where it is not the host's. A GPU's driver keeps what was freed for later, so it is the most
    /// that was used.
    pub device_bytes: Option<u64>,
}

/// Measures `repeats` steps (at least one) after one that is not counted; `times` must be a layer of the subscriber in use. The phases are the host's
/// times: on a GPU what is launched in one may run in the next.
///
/// Memory: 16 bytes a parameter (weight, gradient, two moments; 10 with moments of 8 bits, 4 less where the update is made in backward), and the activations.
///
/// # Errors
/// A sequence of no tokens or more than the model has positions, less memory than the parameters and what belongs to each need; a step that fails.
pub fn run<D: EdkmDevice>(settings: &StepSettings, device: &D, times: &PhaseTimes) -> Result<StepBench, TrainError> {
    let StepSettings {
        config,
        clustering,
        sequence,
        batch,
        moments,
        update,
        recompute,
        store,
        device_share,
        repeats,
    } = settings;
    if *sequence == 0 || *sequence > config.max_position_embeddings || *batch == 0 {
        return Err(TrainError::Setting {
            setting: "--seq and --batch",
            value: format!("{sequence} and {batch}"),
            expected: "at least 1, and no more tokens than the model has positions",
        });
    }
    check_memory(config, *moments, *update, device)?;
    let steps = repeats.max(&1) + 1;
    let mut model = DynamicLlama::from_weights(config, device, &mut random_weights(0, config.num_hidden_layers, 0.02))?;
    model.recompute = *recompute;
    if let Some(clustering) = clustering {
        model.set_clustering(clustering);
    }
    let settings = TrainerSettings {
        learning_rate: LearningRate::cosine(1e-4, steps as u64)?,
        temperature: clustering.as_ref().map(|clustering| clustering.temperature),
        optimizer: AdamWConfig {
            moments: *moments,
            ..AdamWConfig::default()
        },
        batch: *batch,
        accumulate: 1,
        update: *update,
    };
    let mut random = generator(2, 0);
    let tokens = (0..(batch + 2) * sequence).map(|_| random.next_u32() % config.vocab_size as u32);
    let stream = TokenStream::from_tokens(tokens.collect());
    let mut sampler = WindowSampler::new(&stream, *sequence, 0)?;
    let mut trainer = Trainer::new(model, device.clone(), settings, store.build()?);
    if let Some(budget) = device_share.budget(
        device,
        [gradient_bytes(config, *update), moment_bytes(config, *moments)],
    )? {
        trainer = trainer.with_device_budget(budget);
    }

    let mut seconds = Vec::new();
    let mut phases: [Vec<f64>; Phase::ALL.len()] = Default::default();
    for step in 0..steps {
        let before = Phase::ALL.map(|phase| times.get(phase));
        let start = Instant::now();
        trainer.step(&mut sampler)?;
        device.try_synchronize().map_err(device_error)?;
        let elapsed = start.elapsed().as_secs_f64();
        if step > 0 {
            seconds.push(elapsed);
            for ((phase, before), phases) in Phase::ALL.into_iter().zip(before).zip(&mut phases) {
                phases.push((times.get(phase).saturating_sub(before)).as_secs_f64());
            }
        }
    }
    let (peak_rss_bytes, device_bytes) = (peak_resident_bytes(), device.taken_bytes().map_err(device_error)?);
    drop(trainer);
    let (matmul_seconds, matmul_flop) = matrix_products(config, batch * sequence, device)?;
    Ok(StepBench {
        seconds: median(seconds),
        phases: phases.map(median),
        matmul_seconds,
        matmul_flop,
        peak_rss_bytes,
        device_bytes,
    })
}

/// Refuses a model that there is no room for, whatever it is given.
fn check_memory<D: EdkmDevice>(
    config: &LlamaConfig,
    moments: MomentFormat,
    update: Update,
    device: &D,
) -> Result<(), TrainError> {
    let needed = [
        config.parameter_count().saturating_mul(4),
        gradient_bytes(config, update),
        moment_bytes(config, moments),
    ];
    let needed = needed.into_iter().fold(0, u64::saturating_add);
    let free = device.free_bytes().map_err(device_error)?;
    match free.or_else(available_bytes).filter(|&available| needed > available) {
        Some(available) => Err(TrainError::Memory {
            what: "the step",
            needed,
            available,
        }),
        None => Ok(()),
    }
}

/// Seconds and operations of a step's products with weights, by the kernels of the ops, each shape timed alone (median of five).
fn matrix_products<D: EdkmDevice>(config: &LlamaConfig, tokens: usize, device: &D) -> Result<(f64, f64), TrainError> {
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
        // the output projection runs in chunks of tokens
        let rows = tokens.min(tokens_at_once(inputs, outputs, 1));
        let once = device.bench_products(rows, outputs, inputs).map_err(device_error)?;
        seconds += count as f64 * once * tokens as f64 / rows as f64;
        flop += 6.0 * (count * tokens * outputs * inputs) as f64;
    }
    Ok((seconds, flop))
}

fn device_error(error: impl std::fmt::Display) -> TrainError {
    TrainError::Device {
        reason: error.to_string(),
    }
}
