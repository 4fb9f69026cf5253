//! Fine-tuning from a folder to a folder.

use std::path::PathBuf;
use std::time::Instant;

use dfdx_edkm::optim::AdamWConfig;
use dfdx_edkm::EdkmDevice;
use edkm_kernels::LargePages;
use edkm_llama::checkpoint::{copy_companions, Checkpoint, OutputDir, Sharding};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{DynamicLlama, DynamicTeacher};
use edkm_llama::names::Parameter;
use edkm_store::Backend;

use super::bits_budget::{settle, write_rules};
use super::check::{check, check_sequence};
use super::checkpoint::{model_fingerprint, OptimizerState, RunFolder, RunState, Start};
use super::clustering_bytes::clustering_bytes;
use super::estimate::estimate;
use super::float_dtype::float_dtype;
use super::plan::{plan_folder, PlanText};
use super::steps::Run;
use super::texts::{document_beginning, texts};
use super::{
    baselines, first_palettes, rate_factors, report, DataSource, FinetuneOutcome, FinetuneSettings, LayerRules,
    Measure, Objective, Observer, OnLimits, PlannedLayer, Sizes, Stage,
};
use crate::compress::Calibration;
use crate::data::sampler::WindowSampler;
use crate::evaluate::perplexity;
use crate::memory::peak_resident_bytes;
use crate::optimizer_bytes::{gradient_bytes, moment_bytes};
use crate::report::StoreLayerFigures;
use crate::schedule::LearningRate;
use crate::trainer::{set_temperature, Trainer, TrainerSettings};
use crate::{Tokenizer, TrainError};

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
    check(settings)?;
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
    let store = settings.store.build()?;
    let estimated = estimate(settings, device)?;
    observer.estimate(&estimated);
    if settings.on_limits == OnLimits::Refuse {
        estimated.check()?;
    }
    let learning_rate = LearningRate::cosine(settings.learning_rate, settings.steps)?;
    let config = LlamaConfig::read(&settings.model_dir)?;
    let checkpoint = Checkpoint::open(&settings.model_dir)?;
    observer.stage(Stage::LoadModel);
    let mut model: DynamicLlama<D> = DynamicLlama::from_checkpoint(&checkpoint, &config, device)?;
    model.recompute = settings.recompute;
    let (size_before_bytes, dtype) = (checkpoint.file_bytes(), float_dtype(&checkpoint));
    drop(checkpoint);
    check_sequence(settings.sequence, settings.evaluation_tokens, &config)?;

    observer.stage(Stage::LoadData);
    let tokenizer = Tokenizer::from_dir(&settings.model_dir)?;
    tokenizer.check_vocabulary(config.vocab_size)?;
    let (training, validation) = texts(settings, &tokenizer)?;
    let mut sampler = WindowSampler::new(&training, settings.sequence, settings.seed)?;

    let mut settings = settings.clone();
    let (mut bits_chosen, mut choosing_seconds) = (Vec::new(), 0.0);
    let calibration = Calibration {
        stream: &training,
        sequence: settings.sequence,
        windows: CALIBRATION_WINDOWS,
        seed: settings.seed,
    };
    if resumed.is_none() {
        observer.go_on()?;
    }
    if let Some(clustering) = &mut settings.clustering {
        match &resumed {
            None => {
                let choosing = Instant::now();
                (*clustering, bits_chosen) = settle(&model, clustering, Some(&calibration), observer)?;
                choosing_seconds = choosing.elapsed().as_secs_f64();
            }
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
            let measured_on = match settings.validation {
                DataSource::HeldOut => "training text (its last tenth is measured on)",
                _ => "validation text",
            };
            same(measured_on, state.validation, validation_print)?;
            observer.result(&format!(
                "perplexity {:.4}, measured when the run began",
                state.perplexity_before
            ));
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

    let teacher = match settings.objective {
        Objective::Text => None,
        Objective::Teacher(lesson) => {
            let teacher = DynamicTeacher::new(&model).map_err(|error| TrainError::Device {
                reason: format!("the model as it came: {error}"),
            })?;
            Some((teacher, lesson))
        }
    };
    if let Some(clustering) = &settings.clustering {
        model.set_clustering(clustering);
    }
    let factors = rate_factors::rate_factors(&mut model, settings.rate_unit);
    let mut baselines = Vec::new();
    if let (Measure::Yes, Some(clustering)) = (settings.baselines, &settings.clustering) {
        observer.stage(Stage::EvaluateBaselines);
        let known = resumed.as_ref().map_or(&[][..], |(_, state)| &state.baselines);
        baselines = baselines::measure(&mut model, clustering, known, &evaluate, observer)?;
    }

    let trainer_settings = TrainerSettings {
        learning_rate,
        temperature: settings.clustering.as_ref().map(|c| c.temperature),
        optimizer: AdamWConfig {
            weight_decay: settings.weight_decay,
            moments: settings.moments,
            ..AdamWConfig::default()
        },
        batch: settings.batch,
        accumulate: settings.accumulate,
        update: settings.update,
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
            let optimizer = RunFolder::optimizer(path, &state.optimizer, device)?;
            RunFolder::check_optimizer(path, &mut model, &optimizer)?;
            sampler = WindowSampler::resume(&training, settings.sequence, state.position)?;
            // what the step before left in the clusterings, should there be no step to come
            if let (Some(schedule), Some(last)) = (trainer_settings.temperature, first.checked_sub(1)) {
                set_temperature(&mut model, schedule.unit(), schedule.at(last));
            }
            Trainer::resume(model, optimizer, trainer_settings, store, first)
        }
    };
    trainer = trainer.with_rate_factors(factors);
    let copied = teacher.as_ref().map_or(0, |(teacher, _)| teacher.shared_bytes());
    let to_come = [
        gradient_bytes(&config, settings.update),
        moment_bytes(&config, settings.moments),
        copied,
    ];
    if let Some(budget) = settings.device_share.budget(device, to_come)? {
        trainer = trainer.with_device_budget(budget);
    }
    if let Some((teacher, lesson)) = teacher {
        trainer = trainer.with_teacher(teacher, lesson);
    }
    if settings
        .clustering
        .as_ref()
        .is_some_and(|c| c.from_step > 0 && first <= c.from_step)
    {
        trainer.model.set_clustering(&|_: &Parameter| None);
    }
    let earlier = resumed.as_ref().map_or((0.0, choosing_seconds), |(_, state)| {
        (state.seconds, state.training_seconds)
    });
    let non_finite = resumed
        .as_ref()
        .map_or_else(Default::default, |(_, state)| state.non_finite);
    drop(resumed);
    observer.stage(Stage::Train);
    let training_start = Instant::now();
    let state = |trainer: &Trainer<D>, position, non_finite| {
        let optimizer = trainer.optimizer();
        RunState {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            step: trainer.step_count(),
            optimizer: OptimizerState {
                config: *optimizer.config(),
                step: optimizer.step_count(),
            },
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
        }
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
    let (store, budget) = (trainer.store().report(), trainer.device_budget().cloned());
    // optimizer and teacher have done their part
    let mut model = trainer.into_model();
    LargePages::give_back();
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
        bits_per_weight: Sizes::of(&palettes).bits_per_weight(),
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
        saved_bytes_device: budget.map_or(0, |budget| budget.peak_bytes()),
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
