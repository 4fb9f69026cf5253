//! What a run reads, and its settings: the arguments, as the library takes them.

use std::path::{Path, PathBuf};

use edkm_llama::config::LlamaConfig;
use edkm_train::lesson::{Lesson, Ramp};
use edkm_train::run::{
    free_folder, ClusterSettings, DataSource, FinetuneSettings, KeptModel, Measure, ModelPalettes, Objective,
    OnNonFinite,
};

use crate::args::FinetuneArgs;
use crate::commands::{on_limits, overwrite, recompute, update, Failure};
use crate::embedded;
use crate::hub;

/// The folder that is written if none is named.
const DEFAULT_OUT: &str = "edkm-out";

/// What a run reads, as far as it is known before the run begins.
pub struct Inputs {
    model_dir: PathBuf,
    pub config: LlamaConfig,
    /// The palettes of a model that has some.
    pub compressed: Option<ModelPalettes>,
    data: DataSource,
    validation: DataSource,
    /// It is the embedded model.
    is_embedded: bool,
}

impl Inputs {
    /// Those that the arguments name. No weights and no text are read.
    ///
    /// # Errors
    /// Arguments that name none; a model that cannot be read.
    pub fn of(args: &FinetuneArgs, embedded_folder: Option<&Path>) -> Result<Self, Failure> {
        args.device.check()?;
        let files = |paths: &[PathBuf]| DataSource::Files(paths.to_vec());
        let (data, held_out) = match (args.data.as_slice(), embedded_folder) {
            ([], Some(_)) => (
                DataSource::Text(embedded::training_text()),
                DataSource::Text(embedded::validation_text()),
            ),
            // bits that are not chosen are planned without a text
            ([], None) if args.clustering.plan && args.clustering.bits_budget.is_none() => {
                (DataSource::Text(String::new()), DataSource::HeldOut)
            }
            ([], None) => return Err("no text to train on; name it with --data FILE (.txt, .json or .jsonl)".into()),
            (paths, _) => (files(paths), DataSource::HeldOut),
        };
        let validation = match args.valid.as_slice() {
            [] => held_out,
            paths => files(paths),
        };
        let model_dir = match (&args.model_dir, embedded_folder) {
            (Some(dir), _) => hub::folder(dir)?,
            (None, Some(folder)) => folder.to_path_buf(),
            (None, None) => return Err("no model".into()),
        };
        Ok(Self {
            config: LlamaConfig::read(&model_dir)?,
            compressed: ModelPalettes::read(&model_dir)?,
            model_dir,
            data,
            validation,
            is_embedded: embedded_folder.is_some(),
        })
    }
}

/// The settings of the run.
///
/// # Errors
/// Arguments that do not go together; a teacher that cannot be read.
pub fn settings_of(args: &FinetuneArgs, inputs: &Inputs) -> Result<FinetuneSettings, Failure> {
    let teacher_dir = args.teacher.as_deref().map(hub::folder).transpose()?;
    let hidden = match (args.distill_hidden, &teacher_dir) {
        (Some(hidden), _) => hidden.into(),
        (None, Some(teacher)) if !have_states_alike(&inputs.config, teacher)? => Ramp::constant(0.0),
        (None, _) => Objective::LESSON.hidden,
    };
    let lesson = Lesson {
        share: args.distill.into(),
        hidden,
        fade: args.distill_fade,
    };
    let objective = match args.no_distill || args.no_cluster || lesson.is_nothing() {
        true => Objective::Text,
        false => Objective::Teacher(lesson),
    };
    let (clustering, usual_rate) = match args.no_cluster {
        true => (None, None),
        false => {
            let (clustering, rate) =
                args.clustering
                    .settings(args.steps, args.lr, &inputs.config, inputs.compressed.as_ref())?;
            let seed = args.seed;
            (Some(ClusterSettings { seed, ..clustering }), Some(rate))
        }
    };
    let baselines = if args.baselines || inputs.is_embedded {
        Measure::Yes
    } else {
        Measure::No
    };
    let (store, device_share) = args.device.storage(args.store.as_deref(), args.device_memory)?;
    let out = args.out.clone().unwrap_or_else(unnamed_out);
    let defaults = FinetuneSettings::new(
        inputs.model_dir.clone(),
        inputs.data.clone(),
        clustering,
        args.steps,
        out,
    );
    Ok(FinetuneSettings {
        validation: inputs.validation.clone(),
        apart: args.apart.into(),
        evaluation_tokens: args.eval_tokens,
        evaluate_every: args.eval_every,
        kept_model: match args.keep_best {
            true => KeptModel::Best,
            false => KeptModel::Last,
        },
        objective,
        teacher_dir,
        learning_rate: args.lr.or(usual_rate).unwrap_or(defaults.learning_rate),
        rate_unit: args.lr_unit.into(),
        weight_decay: args.weight_decay,
        moments: args.optimizer.into(),
        update: update(args.update_in_backward),
        sequence: args.seq,
        batch: args.batch,
        accumulate: args.accumulate,
        seed: args.seed,
        store,
        recompute: recompute(args.checkpoint_layers, args.checkpoint_attention),
        baselines,
        overwrite: overwrite(args.overwrite),
        on_non_finite: args.on_non_finite.map_or(OnNonFinite::Stop, OnNonFinite::from),
        device_share,
        on_limits: on_limits(args.ignore_limits),
        ..defaults
    })
}

/// The folder to write if none is named, as far as it is known now which are taken.
pub fn unnamed_out() -> PathBuf {
    free_folder(Path::new(DEFAULT_OUT))
}

/// Whether two models have hidden states that can be compared.
fn have_states_alike(model: &LlamaConfig, teacher: &Path) -> Result<bool, Failure> {
    let sizes = |config: &LlamaConfig| (config.num_hidden_layers, config.hidden_size);
    Ok(sizes(model) == sizes(&LlamaConfig::read(teacher)?))
}
