//! Fine-tuning from a folder to a folder.

use std::path::{Path, PathBuf};
use std::time::Instant;

use dfdx::prelude::*;
use dfdx_edkm::optim::AdamWConfig;
use dfdx_edkm::{EdkmDevice, ParameterKind, ParameterVisitor, Parameters};
use edkm_llama::checkpoint::{copy_companions, Checkpoint, Dtype, FloatDtype, OutputDir, Overwrite, Sharding};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{DynamicLlama, PalettizedParameter, Recompute};
use edkm_llama::names::Parameter;
use edkm_store::{Backend, StoreSpec};

use super::bits_budget::{settle, write_rules};
use super::checkpoint::{model_fingerprint, run_folder, CheckpointSettings, RunFolder, RunState, Start};
use super::estimate::estimate;
use super::plan::{plan, plan_folder, PlanText};
use super::steps::{self, Run};
use super::{
    first_palettes, rate_factors, report, Baseline, ClusterSettings, FinetuneOutcome, LayerRules, Observer,
    OnNonFinite, PlannedLayer, RateUnit, Sizes, Stage,
};
use crate::compress::{compress, with_palettes, Calibration, Method};
use crate::data::sampler::WindowSampler;
use crate::data::windows::check_length;
use crate::data::TokenStream;
use crate::evaluate::perplexity;
use crate::memory::peak_resident_bytes;
use crate::report::StoreLayerFigures;
use crate::schedule::LearningRate;
use crate::trainer::{set_temperature, Trainer, TrainerSettings};
use crate::{Tokenizer, TrainError};

/// Where text comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum DataSource {
    /// Data files, in order.
    Files(Vec<PathBuf>),
    /// Text in memory.
    Text(String),
    /// The last part of the training text, which is then not trained on.
    HeldOut,
}

/// Whether something is measured that takes time and is not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// What a model learns.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Objective {
    /// The text.
    #[default]
    Text,
    /// What the model said of the text before it was clustered, and the text.
    Teacher {
        /// The share of the loss that is the distance to the model's predictions, above 0 and at most 1; the rest is the text's.
        share: f32,
    },
}

impl Objective {
    /// Half the model's predictions, half the text: what experiments found best.
    pub const HALF_TEACHER: Self = Self::Teacher { share: 0.5 };
}

/// All that determines a run.
#[derive(Debug, Clone)]
pub struct FinetuneSettings {
    /// The model's folder.
    pub model_dir: PathBuf,
    /// What it is trained on.
    pub data: DataSource,
    /// What it is measured on.
    pub validation: DataSource,
    /// Tokens of the validation text that are used.
    pub evaluation_tokens: usize,
    /// How it is clustered; `None` trains it as it is.
    pub clustering: Option<ClusterSettings>,
    /// What the model learns.
    pub objective: Objective,
    /// Steps of training.
    pub steps: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// What it is measured in for clustered matrices.
    pub rate_unit: RateUnit,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f32,
    /// Tokens of a sequence.
    pub sequence: usize,
    /// Sequences of a forward pass.
    pub batch: usize,
    /// Forward passes of a step.
    pub accumulate: usize,
    /// Seed of the data's order.
    pub seed: u64,
    /// Where saved tensors go.
    pub store: StoreSpec,
    /// What layers save.
    pub recompute: Recompute,
    /// Whether compression without training is measured too.
    pub baselines: Measure,
    /// The folder to write.
    pub out: PathBuf,
    /// What happens to one that is there.
    pub overwrite: Overwrite,
    /// What happens when a loss or a gradient is not finite.
    pub on_non_finite: OnNonFinite,
    /// When the run writes checkpoints, and whether it goes on from one.
    pub checkpoints: CheckpointSettings,
    /// What happens when there seems to be too little memory or disk.
    pub on_limits: OnLimits,
}

/// What happens when a run is estimated to need more memory or disk than there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnLimits {
    /// It is refused.
    #[default]
    Refuse,
    /// It begins all the same.
    Ignore,
}

/// Tokens of the validation text that the sample begins with.
const PROMPT_TOKENS: usize = 12;

/// The share of the text that is held out if there is no other to measure on.
const HELD_OUT: f64 = 0.1;

/// Windows of the training text on which the bits of layers are chosen.
const CALIBRATION_WINDOWS: usize = 128;

/// Runs it. `out` appears when everything is done, whole, or not at all.
///
/// # Errors
/// Input that cannot be used (before any work), a step that fails, a folder that cannot be written.
pub fn finetune<D: EdkmDevice>(
    settings: &FinetuneSettings,
    device: &D,
    observer: &mut impl Observer,
) -> Result<FinetuneOutcome, TrainError> {
    let start = Instant::now();
    // refused before any work
    drop(OutputDir::create(&settings.out, settings.overwrite)?);
    let resumed = match settings.checkpoints.start {
        Start::Fresh => {
            RunFolder::check(&settings.out, settings.overwrite)?;
            None
        }
        Start::Resume => {
            let folder = RunFolder::open_locked(&settings.out)?;
            let newest = newest(&folder, settings.steps)?;
            Some((folder, newest))
        }
    };
    check_policy(settings)?;
    let store = settings.store.build()?;
    let estimated = estimate(settings)?;
    observer.estimate(&estimated);
    if settings.on_limits == OnLimits::Refuse {
        estimated.check()?;
    }
    let learning_rate = LearningRate::cosine(settings.learning_rate, settings.steps)?;
    check_objective(settings.objective)?;
    let config = LlamaConfig::read(&settings.model_dir)?;
    let checkpoint = Checkpoint::open(&settings.model_dir)?;
    observer.stage(Stage::LoadModel);
    let mut model: DynamicLlama<D> = DynamicLlama::from_checkpoint(&checkpoint, &config, device)?;
    model.recompute = settings.recompute;
    let (size_before_bytes, dtype) = (checkpoint.file_bytes(), float_dtype(&checkpoint));
    drop(checkpoint);
    check_sequence(settings.sequence, &config)?;

    observer.stage(Stage::LoadData);
    let tokenizer = Tokenizer::from_dir(&settings.model_dir)?;
    tokenizer.check_vocabulary(config.vocab_size)?;
    let (training, validation) = texts(settings, &tokenizer)?;
    let mut sampler = WindowSampler::new(&training, settings.sequence, settings.seed)?;

    let mut settings = settings.clone();
    let mut bits_chosen = Vec::new();
    let calibration = Calibration {
        stream: &training,
        sequence: settings.sequence,
        windows: CALIBRATION_WINDOWS,
        seed: settings.seed,
    };
    if let Some(clustering) = &mut settings.clustering {
        match &resumed {
            None => (*clustering, bits_chosen) = settle(&model, clustering, Some(&calibration), observer)?,
            Some((_, (path, state))) => {
                clustering.rules =
                    LayerRules::from_toml(&state.layer_rules).map_err(|reason| TrainError::RunCheckpoint {
                        path: path.clone(),
                        reason,
                    })?;
                bits_chosen = state.bits_chosen.clone();
            }
        }
    }
    if let Some(clustering) = &settings.clustering {
        first_palettes::check(&config, clustering)?;
    }
    let settings = &settings;
    let no_rules = LayerRules::default();
    let rules = settings.clustering.as_ref().map_or(&no_rules, |c| &c.rules);
    let layer_rules = rules.to_toml();

    // no input is refused any more
    let (folder, resumed) = match resumed {
        None => {
            let arguments = &settings.checkpoints.arguments;
            (RunFolder::begin(&settings.out, settings.overwrite, arguments)?, None)
        }
        Some((folder, newest)) => (folder, Some(newest)),
    };
    observer.folder(folder.path());

    observer.stage(Stage::EvaluateBefore);
    let evaluate = |model: &DynamicLlama<D>, observer: &mut dyn FnMut(f64)| {
        perplexity(model, &validation, settings.sequence, observer)
    };
    let (model_before, validation_print) = (model_fingerprint(&mut model), validation.fingerprint());
    let perplexity_before = match &resumed {
        Some((_, state)) => {
            same("model", state.model, model_before)?;
            same("validation text", state.validation, validation_print)?;
            state.perplexity_before
        }
        None => {
            let before = evaluate(&model, &mut |share| observer.progress(share))?;
            observer.result(&format!(
                "perplexity {:.4} on {} tokens",
                before.perplexity, before.tokens
            ));
            before.perplexity
        }
    };

    // shares the weights' memory until the first step changes them
    let teacher = match settings.objective {
        Objective::Text => None,
        Objective::Teacher { share } => Some((model.clone(), share)),
    };
    if let Some(clustering) = &settings.clustering {
        model.set_clustering(clustering);
    }
    let factors = rate_factors::rate_factors(&mut model, settings.rate_unit);
    let mut baselines = Vec::new();
    if let (Measure::Yes, Some(clustering)) = (settings.baselines, &settings.clustering) {
        observer.stage(Stage::EvaluateBaselines);
        let is_vector = |layer: &PlannedLayer| layer.palette.as_ref().is_some_and(|palette| palette.vector > 1);
        // rounding has numbers for levels, not vectors
        let scalars = !plan(&config, clustering)?.iter().any(is_vector);
        let rounding = scalars.then_some((Method::RoundToNearest, "rounding to nearest"));
        let methods = rounding.into_iter().chain([(Method::KMeans, "k-means")]);
        for (index, (method, name)) in methods.enumerate() {
            if let Some(&known) = resumed.as_ref().and_then(|(_, state)| state.baselines.get(index)) {
                baselines.push(Baseline::new(method, known));
                continue;
            }
            let dtype = |name: &str| clustering.palette_dtype_of(name);
            let palettes = compress(&mut model, method, None, &dtype, &mut |_| {})?;
            let measured = evaluate(&with_palettes(&model, &palettes)?, &mut |share| {
                observer.progress(share)
            })?;
            observer.result(&format!("perplexity {:.4} by {name}", measured.perplexity));
            baselines.push(Baseline::new(method, measured.perplexity));
        }
    }

    let trainer_settings = TrainerSettings {
        learning_rate,
        temperature: settings.clustering.as_ref().map(|c| c.temperature),
        optimizer: AdamWConfig {
            weight_decay: settings.weight_decay,
            ..AdamWConfig::default()
        },
        batch: settings.batch,
        accumulate: settings.accumulate,
    };
    let first = resumed.as_ref().map_or(0, |(_, state)| state.step);
    let mut trainer = match &resumed {
        None => {
            if let Some(clustering) = settings.clustering.as_ref().filter(|c| c.from_step == 0) {
                first_palettes::find(&mut model, clustering.first_palettes, &calibration, observer)?;
            }
            Trainer::new(model, device.clone(), trainer_settings, store)
        }
        Some((path, state)) => {
            RunFolder::restore(path, state, &mut model)?;
            let optimizer = steps::optimizer(device, state)?;
            sampler = WindowSampler::resume(&training, settings.sequence, state.position)?;
            // what the step before left in the clusterings, should there be no step to come
            if let (Some(schedule), Some(last)) = (trainer_settings.temperature, first.checked_sub(1)) {
                set_temperature(&mut model, schedule.unit(), schedule.at(last));
            }
            Trainer::resume(model, optimizer, trainer_settings, store, first)
        }
    };
    trainer = trainer.with_rate_factors(factors);
    if let Some((teacher, share)) = teacher {
        trainer = trainer.with_teacher(teacher, share);
    }
    if settings
        .clustering
        .as_ref()
        .is_some_and(|c| c.from_step > 0 && first <= c.from_step)
    {
        trainer.model.set_clustering(&|_: &Parameter| None);
    }
    let earlier = resumed
        .as_ref()
        .map_or((0.0, 0.0), |(_, state)| (state.seconds, state.training_seconds));
    let non_finite = resumed
        .as_ref()
        .map_or_else(Default::default, |(_, state)| state.non_finite);
    drop(resumed);
    observer.stage(Stage::Train);
    let training_start = Instant::now();
    let state = |trainer: &Trainer<D>, position, non_finite| {
        let optimizer = trainer.optimizer().state().map_err(|error| TrainError::Device {
            reason: error.to_string(),
        })?;
        Ok(RunState {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            step: trainer.step_count(),
            optimizer,
            clusterings: Default::default(),
            layer_rules: layer_rules.clone(),
            bits_chosen: bits_chosen.clone(),
            position,
            model: model_before,
            validation: validation_print,
            perplexity_before,
            baselines: baselines.iter().map(|baseline| baseline.perplexity).collect(),
            non_finite,
            training_seconds: earlier.1 + training_start.elapsed().as_secs_f64(),
            seconds: earlier.0 + start.elapsed().as_secs_f64(),
        })
    };
    let run = Run {
        settings,
        device,
        folder: &folder,
        calibration,
        state: &state,
    };
    let (steps, non_finite) = run.train(&mut trainer, &mut sampler, non_finite, observer)?;
    let training_seconds = earlier.1 + training_start.elapsed().as_secs_f64();
    let store = trainer.store().report();
    // optimizer and teacher have done their part
    let mut model = trainer.into_model();
    let clustering_bytes = clustering_bytes(&mut model);

    observer.stage(Stage::Save);
    let out = OutputDir::create(&settings.out, settings.overwrite)?;
    let metrics = folder.metrics();
    std::fs::copy(&metrics, out.path().join("metrics.jsonl")).map_err(TrainError::io("copy", &metrics))?;
    let palettes = match &settings.clustering {
        Some(clustering) => model.palettize_by_name(&|name| clustering.palette_dtype_of(name))?,
        None => Vec::new(),
    };
    let size_bytes = model
        .write_weights(out.path(), &palettes, dtype, Sharding::Single)?
        .bytes;
    drop(model);
    config.write(out.path())?;
    write_rules(rules, out.path())?;
    copy_companions(&settings.model_dir, out.path())?;

    observer.stage(Stage::EvaluateAfter);
    let written = DynamicLlama::<D>::open(out.path(), device)?;
    let after = evaluate(&written, &mut |share| observer.progress(share))?;
    observer.result(&format!(
        "perplexity {:.4} on {} tokens",
        after.perplexity, after.tokens
    ));
    let prompt = tokenizer.decode(document_beginning(&validation, &tokenizer))?;
    let sample = report::sample(prompt.trim(), &settings.model_dir, out.path())?;

    let outcome = FinetuneOutcome {
        perplexity_before,
        perplexity_after: after.perplexity,
        perplexity_uncompressed: None,
        bits_per_weight: sizes(&palettes).bits_per_weight(),
        size_bytes,
        size_before_bytes,
        steps: settings.steps,
        non_finite,
        tokens: steps.iter().map(|step| step.tokens).sum(),
        seconds: earlier.0 + start.elapsed().as_secs_f64(),
        training_seconds,
        peak_rss_bytes: peak_resident_bytes(),
        saved_bytes_peak: store.peak_bytes,
        saved_bytes_logical: store.logical_peak_bytes,
        saved_bytes_disk: store.disk_peak_bytes,
        store_layers: StoreLayerFigures::of(&store),
        saved_bytes_clustering: clustering_bytes.here,
        saved_bytes_plain_dkm: clustering_bytes.plain_dkm,
        bits_chosen,
        baselines,
        sample: sample.clone(),
        out: settings.out.clone(),
    };
    let page = report::data(settings, &outcome, steps, &store, sample, out.path())?;
    report::write(&page, out.path())?;
    if folder.log().exists() {
        std::fs::copy(folder.log(), out.path().join("log.txt")).map_err(TrainError::io("copy", &folder.log()))?;
    }
    folder.note_result(out.path(), &outcome)?;
    out.commit()?;
    folder.remove()?;
    Ok(outcome)
}

/// The newest checkpoint of the run that writes `out`. A warning names those that cannot be used, and the one that is.
fn newest(folder: &RunFolder, steps: u64) -> Result<(PathBuf, RunState), TrainError> {
    let (path, state, damaged) = folder.newest()?;
    for reason in damaged {
        tracing::warn!("{reason}; going on from {}", path.display());
    }
    if state.step > steps || state.optimizer.step > state.step {
        let reason = format!(
            "{} steps and {} updates of a run of {steps} steps",
            state.step, state.optimizer.step
        );
        return Err(TrainError::RunCheckpoint { path, reason });
    }
    Ok((path, state))
}

fn same(what: &'static str, saved: u64, current: u64) -> Result<(), TrainError> {
    match saved == current {
        true => Ok(()),
        false => Err(TrainError::Changed { what }),
    }
}

/// Going back needs something to go back to.
fn check_policy(settings: &FinetuneSettings) -> Result<(), TrainError> {
    match (settings.on_non_finite, settings.checkpoints.every) {
        (OnNonFinite::Rollback, None) => Err(TrainError::Setting {
            setting: "on-non-finite",
            value: "rollback, without checkpoints to go back to".to_owned(),
            expected: "--checkpoint-every N with it, or stop, or skip",
        }),
        _ => Ok(()),
    }
}

fn check_objective(objective: Objective) -> Result<(), TrainError> {
    match objective {
        Objective::Teacher { share } if !(share > 0.0 && share <= 1.0) => Err(TrainError::Setting {
            setting: "share of distillation",
            value: share.to_string(),
            expected: "a part of the loss from 0 to 1",
        }),
        _ => Ok(()),
    }
}

/// What each parameter would get in this run; nothing is written.
///
/// # Errors
/// Input that cannot be used, as for [`finetune`]; a run that does not cluster.
pub fn plan_finetune<D: EdkmDevice>(
    settings: &FinetuneSettings,
    device: &D,
    observer: &mut impl Observer,
) -> Result<Vec<PlannedLayer>, TrainError> {
    let Some(clustering) = &settings.clustering else {
        return Err(TrainError::Setting {
            setting: "clustering",
            value: "off".into(),
            expected: "on, if there is to be a plan",
        });
    };
    let text = PlanText {
        load: |tokenizer: &Tokenizer| Ok(texts(settings, tokenizer)?.0),
        sequence: settings.sequence,
        windows: CALIBRATION_WINDOWS,
        seed: settings.seed,
    };
    plan_folder(&settings.model_dir, clustering, Some(text), device, observer)
}

/// A sequence must fit the model's positions.
pub(crate) fn check_sequence(sequence: usize, config: &LlamaConfig) -> Result<(), TrainError> {
    if sequence > config.max_position_embeddings {
        return Err(TrainError::Setting {
            setting: "sequence length",
            value: format!(
                "{sequence} (the model has {} positions)",
                config.max_position_embeddings
            ),
            expected: "at most the model's max_position_embeddings",
        });
    }
    Ok(())
}

/// Training and validation tokens.
fn texts(settings: &FinetuneSettings, tokenizer: &Tokenizer) -> Result<(TokenStream, TokenStream), TrainError> {
    let load = |source: &DataSource| match source {
        DataSource::Files(paths) => TokenStream::from_files(paths, tokenizer),
        DataSource::Text(text) => TokenStream::from_text(text, tokenizer),
        DataSource::HeldOut => Err(TrainError::EmptyData { paths: Vec::new() }),
    };
    let mut training = load(&settings.data)?;
    let mut validation = match &settings.validation {
        DataSource::HeldOut => training.split_off_share(HELD_OUT),
        other => load(other)?,
    };
    validation.truncate(settings.evaluation_tokens);
    check_length(&training, settings.sequence)?;
    check_length(&validation, settings.sequence)?;
    Ok((training, validation))
}

/// The first tokens of the first whole document.
fn document_beginning<'a>(stream: &'a TokenStream, tokenizer: &Tokenizer) -> &'a [u32] {
    let tokens = stream.tokens();
    let begins = tokens
        .iter()
        .position(|&token| Some(token) == tokenizer.begin_token())
        .unwrap_or(0);
    &tokens[begins..tokens.len().min(begins + PROMPT_TOKENS)]
}

/// The type that weights which are not clustered are written in: the one they came in.
pub(crate) fn float_dtype(checkpoint: &Checkpoint) -> FloatDtype {
    let norm = edkm_llama::names::Kind::FinalNorm.name(0);
    match checkpoint.info(&norm).map(|info| info.dtype) {
        Some(Dtype::F16) => FloatDtype::F16,
        Some(Dtype::BF16) => FloatDtype::Bf16,
        _ => FloatDtype::F32,
    }
}

/// Bits and weights of palettized parameters.
pub(crate) fn sizes(palettes: &[PalettizedParameter]) -> Sizes {
    palettes.iter().fold(Sizes::default(), |sum, parameter| {
        let weights = (parameter.matrix.rows() * parameter.matrix.cols()) as f64;
        Sizes {
            bits: sum.bits + weights * parameter.matrix.bits_per_weight(),
            weights: sum.weights + weights,
        }
    })
}

/// Bytes kept from forward to backward for the clusterings of one step.
#[derive(Clone, Copy, Default)]
struct ClusteringBytes {
    here: u64,
    /// DKM as published: an attention map of weights x clusters in each repetition, 4 bytes an entry.
    plain_dkm: u64,
}

impl<D: EdkmDevice> ParameterVisitor<D> for ClusteringBytes {
    type Error = std::convert::Infallible;
    fn visit<S: Shape>(
        &mut self,
        _: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), Self::Error> {
        if let Some(clustering) = kind.clustering() {
            let spec = clustering.spec();
            let map = parameter.shape().num_elements() as u64 / spec.dim() as u64 * spec.clusters() as u64;
            self.plain_dkm += 4 * map * spec.iterations as u64;
            self.here += clustering.saved_bytes() as u64;
        }
        Ok(())
    }
}

fn clustering_bytes<D: EdkmDevice>(model: &mut DynamicLlama<D>) -> ClusteringBytes {
    let mut bytes = ClusteringBytes::default();
    match model.visit_parameters("", &mut bytes) {
        Ok(()) => bytes,
        Err(never) => match never {},
    }
}

/// A folder name that is not taken: `base`, then `base-2`, `base-3` and so on.
pub fn free_folder(base: &Path) -> PathBuf {
    let taken = |path: &Path| {
        path.read_dir()
            .map_or(path.exists(), |mut entries| entries.next().is_some())
    };
    let name = base.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut candidate = base.to_path_buf();
    let mut number = 1;
    while taken(&candidate) || run_folder(&candidate).exists() {
        number += 1;
        candidate = base.with_file_name(format!("{name}-{number}"));
    }
    candidate
}
