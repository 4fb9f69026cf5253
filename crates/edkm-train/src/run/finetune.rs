//! Fine-tuning from a folder to a folder.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use dfdx_edkm::EdkmDevice;
use edkm_llama::checkpoint::{FloatDtype, OutputDir};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::DynamicLlama;
use edkm_store::Backend;

use super::before::Before;
use super::bits_budget::settle;
use super::check::{check_clustering, check_clustering_of};
use super::checkpoint::{ClaimedFolder, RunFolder, RunState, Start};
use super::estimate::estimate;
use super::inputs::Inputs;
use super::known::{Clock, Known};
use super::plan::{plan_folder, PlanText};
use super::result::Beside;
use super::texts::texts;
use super::{BitsChoice, FinetuneOutcome, FinetuneSettings, LayerRules, Observer, OnLimits, PlannedLayer, Stage};
use crate::compress::Calibration;
use crate::data::sampler::WindowSampler;
use crate::data::TokenStream;
use crate::{Tokenizer, TrainError};

/// Windows of the training text on which the bits of layers are chosen.
pub(super) const CALIBRATION_WINDOWS: usize = 128;

/// A checkpoint of a run: where it is, and what it says.
pub(super) type Saved = (PathBuf, RunState);

/// What does not change from the first step to the result.
pub(super) struct Run<'a, D: EdkmDevice> {
    /// With the bits of each layer.
    pub(super) settings: &'a FinetuneSettings,
    pub(super) device: &'a D,
    pub(super) folder: &'a RunFolder,
    pub(super) config: &'a LlamaConfig,
    /// The type of what is not clustered, in the result.
    pub(super) dtype: FloatDtype,
    pub(super) calibration: Calibration<'a>,
    pub(super) validation: &'a TokenStream,
}

/// Runs it. `out` appears when everything is done, whole, or not at all.
///
/// A run ends behind the present step, with a checkpoint beside `out`, once its [`Observer::interrupted`] says so; it goes on with the same settings and
/// [`Start::Resume`]:
///
/// ```no_run
/// use dfdx::prelude::Cpu;
/// use edkm_train::run::checkpoint::{CheckpointSettings, Start};
/// use edkm_train::run::{finetune, FinetuneSettings, Observer};
/// use edkm_train::TrainError;
///
/// # fn go_on(settings: FinetuneSettings, observer: &mut impl Observer) -> Result<(), TrainError> {
/// let cpu = Cpu::default();
/// match finetune(&settings, &cpu, observer) {
///     Err(TrainError::Interrupted { step, .. }) => println!("{step} steps are done"),
///     done => return done.map(|_| ()),
/// }
/// // later, in this process or another one
/// let checkpoints = CheckpointSettings {
///     start: Start::Resume,
///     ..settings.checkpoints.clone()
/// };
/// finetune(&FinetuneSettings { checkpoints, ..settings }, &cpu, observer)?;
/// # Ok(())
/// # }
/// ```
///
/// With [`Start::Finish`] the model is written as the checkpoint has it: the run is over then.
///
/// # Errors
/// Input that cannot be used (before any work), a step that fails ([`TrainError::Ended`], where steps before it are kept), a folder that cannot be written;
/// [`TrainError::Interrupted`] and [`TrainError::Stopped`], if the observer asks for it.
pub fn finetune<D: EdkmDevice>(
    settings: &FinetuneSettings,
    device: &D,
    observer: &mut (impl Observer + ?Sized),
) -> Result<FinetuneOutcome, TrainError> {
    finetune_with(settings, || Ok(Arc::new(settings.store.build()?)), device, observer)
}

/// [`finetune`] with what ops save for backward in a backend of one's own, in place of the store that `settings` describe: `store` makes it, once the input
/// has been looked at. Memory is estimated as for the store of `settings`.
///
/// # Errors
/// Those of [`finetune`], and of `store`.
pub fn finetune_with<D: EdkmDevice>(
    settings: &FinetuneSettings,
    store: impl FnOnce() -> Result<Arc<dyn Backend>, TrainError>,
    device: &D,
    mut observer: &mut (impl Observer + ?Sized),
) -> Result<FinetuneOutcome, TrainError> {
    let observer = &mut observer;
    let begun = Instant::now();
    // refused before any work
    let estimated = estimate(settings, device)?;
    drop(OutputDir::create(&settings.out, settings.overwrite)?);
    let (place, checkpoint) = place(settings)?;
    let store = store()?;
    observer.estimate(&estimated);
    if settings.on_limits == OnLimits::Refuse {
        estimated.check()?;
    }
    let mut inputs = Inputs::read(settings, device, observer).map_err(|error| match (&checkpoint, error) {
        // the checkpoint is there
        (Some((_, state)), TrainError::Stopped) => interrupted_at(state.step, settings),
        (_, error) => error,
    })?;
    let mut sampler = WindowSampler::new(&inputs.training, settings.sequence, settings.seed)?;
    let calibration = Calibration {
        stream: &inputs.training,
        sequence: settings.sequence,
        windows: CALIBRATION_WINDOWS,
        seed: settings.seed,
    };
    let choosing = Instant::now();
    let determining = settings.determining();
    let (settings, bits_chosen) = match &checkpoint {
        None => choose_bits(settings, &inputs.model, &calibration, observer)?,
        Some(checkpoint) => chosen_bits(settings, checkpoint)?,
    };
    let choosing_seconds = choosing.elapsed().as_secs_f64();
    // no input is refused any more
    let folder = match place {
        Place::New(claimed) => claimed.begin(&settings.checkpoints.arguments)?,
        Place::Resumed(folder) => folder,
    };
    observer.folder(folder.path());
    let run = Run {
        settings: &settings,
        device,
        folder: &folder,
        config: &inputs.config,
        dtype: inputs.dtype,
        calibration,
        validation: &inputs.validation,
    };
    let state = checkpoint.as_ref().map(|(_, state)| state);
    let (other, other_print) = match inputs.teacher.take() {
        Some(other) => (Some(other.teacher), Some(other.fingerprint)),
        None => (None, None),
    };
    let before = match Before::take(&settings, &mut inputs.model, &inputs.validation, state, observer) {
        // there is nothing yet to go on from
        Err(TrainError::Stopped) if state.is_none() => {
            folder.remove()?;
            return Err(TrainError::Stopped);
        }
        // the checkpoint is there
        Err(TrainError::Stopped) => return Err(interrupted_at(state.map_or(0, |state| state.step), &settings)),
        before => before?,
    };
    let (earlier, earlier_training) =
        state.map_or((0.0, choosing_seconds), |state| (state.seconds, state.training_seconds));
    let (non_finite, saved_bytes) = state
        .map(|state| (state.non_finite, state.saved_bytes))
        .unwrap_or_default();
    let teacher = match state {
        Some(state) => state.teacher,
        None => other_print,
    };
    if other_print.is_some() && teacher != other_print {
        return Err(TrainError::Changed {
            what: "model that is learned from",
        });
    }
    if let Some(state) = state {
        sampler = WindowSampler::resume(&inputs.training, settings.sequence, state.position)?;
        // what the run reads is what it read
        let arguments = &settings.checkpoints.arguments;
        if !arguments.is_empty() && *arguments != folder.arguments()? {
            if let Err(why) = folder.keep_arguments(arguments) {
                tracing::warn!("{why}; what is changed of the run holds for this time alone");
            }
        }
    }
    folder.keep_companions(&settings.model_dir)?;
    let mut trainer = run.begin(
        inputs.model,
        store,
        other.or(before.teacher),
        before.rate_factors,
        checkpoint.as_ref(),
        observer,
    )?;
    drop(checkpoint);
    let rules = settings
        .clustering
        .as_ref()
        .map(|clustering| clustering.rules.to_toml());
    let known = Known {
        settings: determining,
        layer_rules: rules.unwrap_or_else(|| LayerRules::default().to_toml()),
        bits_chosen,
        model: before.model,
        validation: before.validation,
        perplexity_before: before.perplexity,
        baselines: before.baselines,
        saved_bytes,
        clock: Clock {
            begun,
            training: Instant::now(),
            earlier,
            earlier_training,
        },
    };

    if settings.checkpoints.start != Start::Finish {
        observer.stage(Stage::Train);
        if trainer.step_count() > 0 {
            observer.meanwhile(&format!(
                "going on behind step {} of {}",
                trainer.step_count(),
                settings.steps
            ));
        }
    }
    let trained = run.train(&mut trainer, &mut sampler, &known, (non_finite, teacher), observer)?;
    let beside = Beside {
        tokenizer: &inputs.tokenizer,
        text: inputs.text,
        size_before_bytes: inputs.size_bytes,
    };
    let outcome = run.finish(trainer, known, trained, &beside, observer)?;
    folder.remove()?;
    Ok(outcome)
}

/// The end of a run that goes on from a checkpoint of that step.
fn interrupted_at(step: u64, settings: &FinetuneSettings) -> TrainError {
    TrainError::Interrupted {
        step,
        steps: settings.steps,
        out: settings.out.clone(),
    }
}

/// Where a run is kept.
enum Place {
    /// It begins once nothing can be refused any more.
    New(ClaimedFolder),
    /// It goes on.
    Resumed(RunFolder),
}

/// The folder of the run, which no other process takes from now on, and the newest checkpoint of one that goes on.
fn place(settings: &FinetuneSettings) -> Result<(Place, Option<Saved>), TrainError> {
    match settings.checkpoints.start {
        Start::Fresh => {
            let claimed = RunFolder::claim(&settings.out, settings.overwrite)?;
            Ok((Place::New(claimed), None))
        }
        Start::Resume | Start::Finish => {
            let folder = RunFolder::open_locked(&settings.out)?;
            let newest = newest(&folder, settings.steps)?;
            same_settings(settings, &newest.1)?;
            Ok((Place::Resumed(folder), Some(newest)))
        }
    }
}

/// Refuses to go on in another way than the run began.
fn same_settings(settings: &FinetuneSettings, state: &RunState) -> Result<(), TrainError> {
    let now = settings.determining();
    match now
        .iter()
        .find(|(name, value)| state.settings.get(*name) != Some(value))
    {
        None => Ok(()),
        Some((name, now)) => Err(TrainError::OtherSettings {
            setting: name.clone(),
            began: state.settings.get(name).cloned().unwrap_or_default(),
            now: now.clone(),
        }),
    }
}

/// `settings` with the bits of each layer, which are chosen if there is a budget.
fn choose_bits<D: EdkmDevice>(
    settings: &FinetuneSettings,
    model: &DynamicLlama<D>,
    calibration: &Calibration<'_>,
    observer: &mut impl Observer,
) -> Result<(FinetuneSettings, Vec<BitsChoice>), TrainError> {
    observer.go_on()?;
    let (mut settings, mut bits_chosen) = (settings.clone(), Vec::new());
    if let Some(clustering) = &mut settings.clustering {
        (*clustering, bits_chosen) = settle(model, clustering, Some(calibration), observer)?;
    }
    Ok((settings, bits_chosen))
}

/// `settings` with the bits of each layer, as the run that goes on has them.
fn chosen_bits(
    settings: &FinetuneSettings,
    (path, state): &Saved,
) -> Result<(FinetuneSettings, Vec<BitsChoice>), TrainError> {
    let mut settings = settings.clone();
    if let Some(clustering) = &mut settings.clustering {
        let rules = LayerRules::from_toml(&state.layer_rules);
        clustering.rules = rules.map_err(|reason| TrainError::RunCheckpoint {
            path: path.clone(),
            reason,
        })?;
    }
    Ok((settings, state.bits_chosen.clone()))
}

/// The newest checkpoint of the run that writes `out`. A warning names those that cannot be used, and the one that is.
fn newest(folder: &RunFolder, steps: u64) -> Result<Saved, TrainError> {
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

/// What each parameter would get in this run; nothing is written.
///
/// # Errors
/// Input that cannot be used, as for [`finetune`]; a run that does not cluster.
pub fn plan_finetune<D: EdkmDevice>(
    settings: &FinetuneSettings,
    device: &D,
    mut observer: &mut (impl Observer + ?Sized),
) -> Result<Vec<PlannedLayer>, TrainError> {
    let observer = &mut observer;
    let Some(clustering) = &settings.clustering else {
        return Err(TrainError::Setting {
            setting: "clustering",
            value: "off".into(),
            expected: "on, if there is to be a plan",
        });
    };
    let text = PlanText {
        load: |tokenizer: &Tokenizer| Ok(texts(settings, tokenizer, &mut |_| Ok(()))?.0),
        sequence: settings.sequence,
        windows: CALIBRATION_WINDOWS,
        seed: settings.seed,
    };
    check_clustering(clustering, settings.steps)?;
    check_clustering_of(&LlamaConfig::read(&settings.model_dir)?, clustering)?;
    plan_folder(&settings.model_dir, clustering, Some(text), device, observer)
}
