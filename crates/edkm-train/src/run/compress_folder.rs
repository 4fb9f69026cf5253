//! Compression without training, from a folder to a folder.

use std::path::PathBuf;
use std::time::Instant;

use dfdx_edkm::EdkmDevice;
use edkm_cluster::KeepZero;
use edkm_llama::checkpoint::{copy_companions, Checkpoint, OutputDir, Overwrite, Sharding};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{ClusterPlan, DynamicLlama};
use edkm_llama::names::{parameters, Parameter};
use serde::Serialize;

use super::bits_budget::{settle, write_rules};
use super::check::{check_apart, check_budget, check_positions};
use super::compress_memory::check_memory;
use super::float_dtype::float_dtype;
use super::plan::{plan_folder, PlanText};
use super::{
    stream, BitsChoice, ClusterSettings, CompressRecord, DataSource, Observer, OnLimits, PlannedLayer, Sizes, Stage,
};
use crate::compress::{compress, Calibration, Method};
use crate::{Tokenizer, TrainError};

/// All that determines a compression.
#[derive(Debug, Clone)]
pub struct CompressSettings {
    /// The model's folder.
    pub model_dir: PathBuf,
    /// How palettes are found.
    pub method: Method,
    /// Bits and groups.
    pub clustering: ClusterSettings,
    /// The text that methods look at which need one; `None`: there is none.
    pub calibration: Option<CalibrationSettings>,
    /// The folder to write.
    pub out: PathBuf,
    /// What happens to one that is there.
    pub overwrite: Overwrite,
    /// What happens when there seems to be too little memory.
    pub on_limits: OnLimits,
}

impl CompressSettings {
    /// Whether the text is read, if there is one: by the method, or to choose bits.
    pub fn looks_at_text(&self) -> bool {
        self.method.needs_calibration() || self.clustering.bits_budget.is_some()
    }
}

/// Which windows of which text a compression looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct CalibrationSettings {
    /// The text.
    pub data: DataSource,
    /// Tokens of a window; at most the model's positions.
    pub sequence: usize,
    /// Windows, at most as many as the text has.
    pub windows: usize,
    /// Seed of their choice.
    pub seed: u64,
}

/// The file of the figures; `result.json` is a run's, which tells by it that it is complete.
const FIGURES: &str = "compress.json";

/// The figures of a compression, which are in `OUT/compress.json` too.
#[derive(Debug, Clone, Serialize)]
pub struct CompressOutcome {
    /// How palettes were found.
    pub method: &'static str,
    /// Bits a weight of the compressed tensors, palettes counted.
    pub bits_per_weight: Option<f64>,
    /// Bytes of the written model.safetensors.
    pub size_bytes: u64,
    /// Bytes of the model's files as they came.
    pub size_before_bytes: u64,
    /// The bits of each layer, if they were chosen for a budget.
    pub bits_chosen: Vec<BitsChoice>,
    /// What it was made with.
    pub settings: CompressRecord,
    /// Wall time.
    pub seconds: f64,
    /// The folder.
    #[serde(serialize_with = "crate::files::in_words")]
    pub out: PathBuf,
}

/// What each parameter would get by these settings; nothing is written. Model and text are read only if bits are to be chosen.
///
/// # Errors
/// A model or text that cannot be read, rules that do not fit.
pub fn plan_compress<D: EdkmDevice>(
    settings: &CompressSettings,
    device: &D,
    mut observer: &mut (impl Observer + ?Sized),
) -> Result<Vec<PlannedLayer>, TrainError> {
    let observer = &mut observer;
    let text = settings.calibration.as_ref().map(|calibration| PlanText {
        load: |tokenizer: &Tokenizer| stream(&calibration.data, tokenizer, &mut |_| Ok(())),
        sequence: calibration.sequence,
        windows: calibration.windows,
        seed: calibration.seed,
    });
    let config = LlamaConfig::read(&settings.model_dir)?;
    check_method(&config, settings.method, &settings.clustering)?;
    plan_folder(&settings.model_dir, &settings.clustering, text, device, observer)
}

/// A budget is a number. Evenly spaced levels are single numbers, and 0 need not be one of them.
pub(crate) fn check_method(
    config: &LlamaConfig,
    method: Method,
    clustering: &ClusterSettings,
) -> Result<(), TrainError> {
    check_budget(clustering)?;
    if !method.has_even_levels() {
        return Ok(());
    }
    let clustered = |parameter: Parameter| Some((clustering.spec(&parameter)?, parameter.name));
    for (spec, name) in parameters(config).filter_map(clustered) {
        if spec.dim() > 1 {
            return Err(TrainError::Setting {
                setting: "--vector",
                value: format!("{} with --method {}, for {name}", spec.dim(), method.name()),
                expected: "1, as its levels are numbers; kmeans, weighted-kmeans and gptq take vectors",
            });
        }
        if spec.keep_zero == KeepZero::Exact {
            return Err(TrainError::Setting {
                setting: "--keep-zero",
                value: format!("on with --method {}, for {name}", method.name()),
                expected: "off, as 0 need not be one of its levels; kmeans, weighted-kmeans and gptq keep it",
            });
        }
    }
    Ok(())
}

/// Compresses a folder. `out` appears whole or not at all.
///
/// # Errors
/// A model that cannot be read, a weight that is not finite, a folder that cannot be written; [`TrainError::Stopped`].
pub fn compress_folder<D: EdkmDevice>(
    settings: &CompressSettings,
    device: &D,
    mut observer: &mut (impl Observer + ?Sized),
) -> Result<CompressOutcome, TrainError> {
    let observer = &mut observer;
    let start = Instant::now();
    let calibration = settings.calibration.as_ref();
    if settings.method.needs_calibration() && calibration.is_none() {
        return Err(TrainError::NoCalibration {
            method: settings.method.name(),
        });
    }
    check_apart(&settings.model_dir, &settings.out)?;
    let config = LlamaConfig::read(&settings.model_dir)?;
    check_method(&config, settings.method, &settings.clustering)?;
    let out = OutputDir::create(&settings.out, settings.overwrite)?;
    let text = match calibration {
        Some(calibration) if settings.looks_at_text() => {
            observer.stage(Stage::LoadData);
            let sequence = calibration.sequence;
            check_positions(sequence, &config)?;
            let tokenizer = Tokenizer::from_dir(&settings.model_dir)?;
            tokenizer.check_vocabulary(config.vocab_size)?;
            let text = stream(&calibration.data, &tokenizer, &mut |share| observer.advance(share))?;
            Some((calibration, text))
        }
        _ => None,
    };
    let text = text.as_ref().map(|(calibration, stream)| Calibration {
        stream,
        sequence: calibration.sequence,
        windows: calibration.windows,
        seed: calibration.seed,
    });
    let windows = text.as_ref().map(Calibration::drawn).transpose()?;
    if settings.on_limits == OnLimits::Refuse {
        let tokens = text
            .as_ref()
            .zip(windows)
            .map_or(0, |(text, windows)| text.sequence.saturating_mul(windows));
        check_memory(settings, &config, tokens as u64, device)?;
    }
    observer.stage(Stage::LoadModel);
    let checkpoint = Checkpoint::open(&settings.model_dir)?;
    let mut model: DynamicLlama<D> = DynamicLlama::from_checkpoint(&checkpoint, &config, device)?;
    observer.go_on()?;
    let (clustering, bits_chosen) = settle(&model, &settings.clustering, text.as_ref(), observer)?;
    model.set_clustering(&clustering);
    observer.stage(Stage::Compress);
    let dtype = |name: &str| clustering.palette_dtype_of(name);
    let palettes = compress(&mut model, settings.method, text.as_ref(), &dtype, &mut |share| {
        observer.advance(share)
    })?;
    observer.stage(Stage::Save);
    let written = model.write_weights(out.path(), &palettes, float_dtype(&checkpoint), Sharding::Single)?;
    config.write(out.path())?;
    write_rules(&clustering, &config, out.path())?;
    copy_companions(&settings.model_dir, out.path())?;
    let outcome = CompressOutcome {
        method: settings.method.name(),
        bits_per_weight: Sizes::of(&palettes).bits_per_weight(),
        size_bytes: written.bytes,
        size_before_bytes: checkpoint.file_bytes(),
        bits_chosen,
        settings: CompressRecord::of(&CompressSettings {
            clustering,
            calibration: settings.calibration.clone().map(|calibration| CalibrationSettings {
                windows: windows.unwrap_or(calibration.windows),
                ..calibration
            }),
            ..settings.clone()
        }),
        seconds: start.elapsed().as_secs_f64(),
        out: settings.out.clone(),
    };
    let figures = serde_json::to_vec_pretty(&outcome).map_err(|why| TrainError::io("write", out.path())(why.into()))?;
    let path = out.path().join(FIGURES);
    std::fs::write(&path, figures).map_err(TrainError::io("write", &path))?;
    observer.go_on()?;
    out.commit()?;
    Ok(outcome)
}
