//! Generation with a packed model of random weights: how fast it loads, what it holds, how fast it decodes.
//!
//! To compare with on the CPU, the same model in f32 through dfdx: the time of its matrix-vector products alone, the least that decoding
//! a token takes there. One layer's matrices are held at a time and used once for each layer; they are larger than caches.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use dfdx::prelude::*;
use edkm_cluster::bench::median;
use edkm_llama::checkpoint::Checkpoint;
use edkm_llama::config::LlamaConfig;
use edkm_llama::inference::{
    generate, CacheType, GenerateOptions, InferenceModel, RandomWeights, SamplingOptions, Session, SplitMix64,
};
use edkm_llama::names::{self, Role};

use crate::memory::{peak_resident_bytes, reset_peak_resident, resident_bytes};
use crate::TrainError;

/// What is measured.
#[derive(Debug, Clone)]
pub struct GenerateSettings {
    /// The model's sizes.
    pub config: LlamaConfig,
    /// Bits of the decoder's layers.
    pub bits: u8,
    /// Output channels of a decoder's layer that share a palette; all of them without it.
    pub group: Option<NonZeroUsize>,
    /// Bits of the embedding and the output projection.
    pub embedding_bits: u8,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens that are generated.
    pub tokens: usize,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct GenerateMeasured {
    /// Bytes of the model's file.
    pub file_bytes: u64,
    /// Opening the folder, and putting the model where it runs, until it could be given a token.
    pub load_seconds: f64,
    /// Opening the folder and reading the first token: the file has then been brought in.
    pub first_token_seconds: f64,
    /// Resident memory of the process before the model was opened, where the system tells.
    pub resident_before_bytes: Option<u64>,
    /// The most resident memory of the process from opening to the last token, mapped file and all.
    pub peak_resident_bytes: Option<u64>,
    /// Bytes of the key and value cache.
    pub cache_bytes: usize,
    /// Tokens of the prompt in a second.
    pub prompt_tokens_per_second: f64,
    /// The middle of the times of a token.
    pub token_seconds: f64,
    /// A token's matrix-vector products in f32 through dfdx, if that was asked for: the middle of three.
    pub dfdx_seconds: Option<f64>,
}

/// Writes the model of random packed weights into a folder.
///
/// Memory: the packed model, and a byte for each weight of one matrix.
///
/// # Errors
/// A folder that cannot be written, or too little room in it; settings out of range.
pub fn write(settings: &GenerateSettings, dir: &Path) -> Result<(), TrainError> {
    let weights = RandomWeights {
        bits: Some(settings.bits),
        group_rows: settings.group,
        embedding_bits: Some(settings.embedding_bits),
        seed: 1,
    };
    weights.write(&settings.config, dir)?;
    Ok(())
}

/// Opens the model that [`write()`] wrote, has `place` put it where it runs, and generates.
///
/// The memory is that of this process: it should be another than the one that wrote, whose allocator keeps some of what it freed.
/// Memory: what is measured, then, beside dfdx, the f32 matrices of one layer.
///
/// # Errors
/// A folder that holds no such model; those of `place`; a GPU that fails.
pub fn run<E: From<TrainError>>(
    settings: &GenerateSettings,
    dir: &Path,
    place: impl FnOnce(InferenceModel) -> Result<InferenceModel, E>,
    beside_dfdx: bool,
) -> Result<GenerateMeasured, E> {
    let config = &settings.config;
    let failed = |source| E::from(TrainError::Llama(source));
    let file_bytes = Checkpoint::open(dir).map_err(failed)?.file_bytes();

    reset_peak_resident();
    let resident_before_bytes = resident_bytes();
    let begin = Instant::now();
    let model = place(InferenceModel::open(dir).map_err(failed)?)?;
    let context = settings.prompt + settings.tokens + 1;
    let mut session = Session::new(&model, context, CacheType::F32).map_err(failed)?;
    let load_seconds = begin.elapsed().as_secs_f64();
    session.prefill(&[0]).map_err(failed)?;
    let first_token_seconds = begin.elapsed().as_secs_f64();

    let mut random = SplitMix64::new(1);
    let mut token = || (random.next_u64() % config.vocab_size as u64) as u32;
    let prompt: Vec<u32> = (0..settings.prompt).map(|_| token()).collect();
    let options = GenerateOptions {
        max_tokens: 1,
        stop_tokens: Vec::new(),
        sampling: SamplingOptions::greedy(),
    };
    let go_on = |_| std::ops::ControlFlow::Continue(());
    let read = generate(&mut session, &prompt, &options, go_on).map_err(failed)?;
    let times = (0..settings.tokens)
        .map(|_| {
            let begin = Instant::now();
            session.decode(token()).map_err(failed)?;
            Ok(begin.elapsed().as_secs_f64())
        })
        .collect::<Result<Vec<f64>, E>>()?;
    let measured = GenerateMeasured {
        file_bytes,
        load_seconds,
        first_token_seconds,
        resident_before_bytes,
        peak_resident_bytes: peak_resident_bytes(),
        cache_bytes: session.cache_bytes(),
        prompt_tokens_per_second: read.prompt_tokens_per_second(),
        token_seconds: median(times),
        dfdx_seconds: None,
    };
    drop(session);
    drop(model);
    Ok(GenerateMeasured {
        dfdx_seconds: match beside_dfdx {
            true => Some(dfdx_seconds(config)?),
            false => None,
        },
        ..measured
    })
}

/// The matrix-vector products of a token through dfdx's `matmul`, as its `Linear` calls it.
fn dfdx_seconds(config: &LlamaConfig) -> Result<f64, TrainError> {
    let device = Cpu::default();
    let failed = |why| TrainError::Device {
        reason: format!("{why:?}"),
    };
    let mut layer = Vec::new();
    let mut head = Vec::new();
    let mut embedding = None;
    for parameter in names::parameters(config).filter(|p| p.layer.unwrap_or(0) == 0) {
        let matrices = match parameter.role {
            Role::Linear => &mut layer,
            Role::Head => &mut head,
            Role::Embedding => {
                embedding = Some(parameter);
                continue;
            }
            Role::Norm | Role::Bias => continue,
        };
        matrices.push(matrix(&device, parameter.shape[0], parameter.shape[1]).map_err(failed)?);
    }
    if let (true, Some(tied)) = (head.is_empty(), embedding) {
        head.push(matrix(&device, tied.shape[0], tied.shape[1]).map_err(failed)?);
    }
    let token = || {
        let begin = Instant::now();
        for _ in 0..config.num_hidden_layers {
            layer.iter().try_for_each(Product::run)?;
        }
        head.iter().try_for_each(Product::run)?;
        Ok(begin.elapsed().as_secs_f64())
    };
    // The first brings threads and memory in.
    let times = (0..4).map(|_| token()).collect::<Result<Vec<f64>, CpuError>>();
    Ok(median(times.map_err(failed)?[1..].to_vec()))
}

/// A matrix and a vector to multiply it with.
struct Product {
    weight: Tensor<(usize, usize), f32, Cpu>,
    x: Tensor<(usize, usize), f32, Cpu>,
}

fn matrix(device: &Cpu, rows: usize, cols: usize) -> Result<Product, CpuError> {
    // Numbers and not zeros: zeros that were never written are one page of memory.
    let numbers = |count: usize| -> Vec<f32> {
        (0..count)
            .map(|i| ((i.wrapping_mul(0x9e37_79b9) >> 8) & 0xffff) as f32 / 65536.0 - 0.5)
            .collect()
    };
    Ok(Product {
        weight: device.try_tensor_from_vec(numbers(rows * cols), (rows, cols))?,
        x: device.try_tensor_from_vec(numbers(cols), (1, cols))?,
    })
}

impl Product {
    fn run(&self) -> Result<(), CpuError> {
        let transposed = self.weight.clone().try_permute::<_, Axes2<1, 0>>()?;
        std::hint::black_box(self.x.clone().try_matmul(transposed)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_small_model() {
        let text = r#"{"model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": true}"#;
        let config = LlamaConfig::from_json(std::path::Path::new("small"), text).unwrap();
        let settings = GenerateSettings {
            config,
            bits: 3,
            group: None,
            embedding_bits: 8,
            prompt: 4,
            tokens: 5,
        };
        let dir = tempfile::tempdir().unwrap();
        write(&settings, dir.path()).unwrap();
        let measured = run::<TrainError>(&settings, dir.path(), Ok, true).unwrap();
        // 3 bits for each weight of the layers and 8 for the embedding, and not 32 for any matrix
        let (linear, embedding) = (2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 128 * 64), 256 * 64);
        let smallest = (linear * 3 / 8 + embedding) as u64;
        assert!(
            (smallest..smallest + (64 << 10)).contains(&measured.file_bytes),
            "{} against {smallest}",
            measured.file_bytes
        );
        for seconds in [
            measured.load_seconds,
            measured.token_seconds,
            measured.dfdx_seconds.unwrap(),
        ] {
            assert!(seconds > 0.0 && seconds.is_finite());
        }
        assert!(measured.first_token_seconds >= measured.load_seconds);
    }
}
