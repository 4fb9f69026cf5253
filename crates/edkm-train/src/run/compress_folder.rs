//! Compression without training, from a folder to a folder.

use std::path::PathBuf;
use std::time::Instant;

use dfdx_edkm::EdkmDevice;
use edkm_llama::checkpoint::{copy_companions, Checkpoint, OutputDir, Overwrite, Sharding};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;
use serde::Serialize;

use super::finetune::{float_dtype, sizes};
use super::ClusterSettings;
use crate::compress::{compress, Method};
use crate::TrainError;

/// All that determines a compression.
#[derive(Debug, Clone)]
pub struct CompressSettings {
    /// The model's folder.
    pub model_dir: PathBuf,
    /// How palettes are found.
    pub method: Method,
    /// Bits and groups.
    pub clustering: ClusterSettings,
    /// The folder to write.
    pub out: PathBuf,
    /// What happens to one that is there.
    pub overwrite: Overwrite,
}

/// The figures of a compression.
#[derive(Debug, Clone, Serialize)]
pub struct CompressOutcome {
    /// Bits a weight of the compressed tensors, palettes counted.
    pub bits_per_weight: Option<f64>,
    /// Bytes of the written model.safetensors.
    pub size_bytes: u64,
    /// Bytes of the model's files as they came.
    pub size_before_bytes: u64,
    /// Wall time.
    pub seconds: f64,
    /// The folder.
    pub out: PathBuf,
}

/// Compresses a folder. `out` appears whole or not at all.
///
/// # Errors
/// A model that cannot be read, a weight that is not finite, a folder that cannot be written.
pub fn compress_folder<D: EdkmDevice>(settings: &CompressSettings, device: &D) -> Result<CompressOutcome, TrainError> {
    let start = Instant::now();
    let out = OutputDir::create(&settings.out, settings.overwrite)?;
    let config = LlamaConfig::read(&settings.model_dir)?;
    let checkpoint = Checkpoint::open(&settings.model_dir)?;
    let mut model: DynamicLlama<D> = DynamicLlama::from_checkpoint(&checkpoint, &config, device)?;
    model.set_clustering(&settings.clustering);
    let palettes = compress(&mut model, settings.method, settings.clustering.palette_dtype)?;
    let written = model.write_weights(out.path(), &palettes, float_dtype(&checkpoint), Sharding::Single)?;
    config.write(out.path())?;
    copy_companions(&settings.model_dir, out.path())?;
    out.commit()?;
    Ok(CompressOutcome {
        bits_per_weight: sizes(&palettes).bits_per_weight(),
        size_bytes: written.bytes,
        size_before_bytes: checkpoint.file_bytes(),
        seconds: start.elapsed().as_secs_f64(),
        out: settings.out.clone(),
    })
}
