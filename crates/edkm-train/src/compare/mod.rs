//! Ways to compress a model, side by side on the same text: `edkm compare`.
//!
//! ```text
//! OUT/conditions.json  what all runs have in common; runs under other conditions are not added to these
//! OUT/runs.jsonl       one object a run, written when it is done
//! OUT/table.md         a line for each method and width: mean and spread over the seeds
//! OUT/compare.json     the same as numbers, and all runs
//! OUT/compare.svg      perplexity against bits a weight
//! OUT/lock             there while a process works on it
//! ```
//!
//! Table, numbers and plot are written again after each run. A comparison that was stopped goes on where it was: runs that are done are not done
//! again, and a training that was interrupted resumes from its checkpoint.

mod conditions;
mod contender;
mod lock;
mod planned;
mod plot;
mod runs;
mod table;

use std::path::PathBuf;

use dfdx_edkm::EdkmDevice;
use edkm_cluster::Bits;
use edkm_llama::checkpoint::{Checkpoint, Overwrite};
use edkm_llama::config::LlamaConfig;
use edkm_llama::model::{ClusterPlan, DynamicLlama};
use edkm_llama::names::parameters;
use edkm_palette::PaletteDType;

pub use contender::{Contender, Training, Width};
pub use runs::RunFigures;
pub use table::{Comparison, Original, Row};

use crate::data::windows::check_length;
use crate::evaluate::{perplexity, perplexity_in_words};
use crate::run::checkpoint::model_fingerprint;
use crate::run::{
    check_batch, check_files, check_sequence, named, stream, ClusterSettings, DataSource, Observer, OnLimits, Stage,
};
use crate::{Tokenizer, TrainError};
use conditions::Conditions;
use planned::{planned, Planned};

/// All that determines a comparison.
#[derive(Debug, Clone)]
pub struct CompareSettings {
    /// The model's folder.
    pub model_dir: PathBuf,
    /// What is trained on and looked at.
    pub data: DataSource,
    /// What is measured on; not a part of `data`.
    pub validation: DataSource,
    /// Tokens of the validation text that are used.
    pub evaluation_tokens: usize,
    /// The methods, in the order of the table.
    pub contenders: Vec<Contender>,
    /// The widths that each is run with.
    pub widths: Vec<Width>,
    /// Seeds of the data's order and of the choice of calibration windows; methods without either run once.
    pub seeds: u64,
    /// How all of them cluster: groups, vectors, embeddings, rules for single layers. Bits and temperature are those of the run.
    pub clustering: ClusterSettings,
    /// The type of palettes' numbers; `None`: what is usual for each run (see [`ClusterSettings::with_palette_dtype`]).
    pub palette_dtype: Option<PaletteDType>,
    /// Steps of the methods that train.
    pub steps: u64,
    /// Their peak learning rate; `None`: the one that is right for the width.
    pub learning_rate: Option<f64>,
    /// Tokens of a sequence, in training, calibration and measuring.
    pub sequence: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// Windows that methods look at which do not train.
    pub windows: usize,
    /// The folder to write.
    pub out: PathBuf,
    /// Whether runs of another comparison that are there are dropped.
    pub overwrite: Overwrite,
    /// What if there is less memory or room than a run needs.
    pub on_limits: OnLimits,
}

/// Runs what is not done yet; the table and the plot in `out` follow after each run.
///
/// # Errors
/// Input that cannot be used, a folder with runs under other conditions, a run that fails (those before it are kept).
pub fn compare<D: EdkmDevice>(
    settings: &CompareSettings,
    device: &D,
    mut observer: &mut (impl Observer + ?Sized),
) -> Result<Comparison, TrainError> {
    let observer = &mut observer;
    check_batch(settings.batch)?;
    check_files([&settings.data, &settings.validation], "a comparison")?;
    observer.stage(Stage::LoadModel);
    let config = LlamaConfig::read(&settings.model_dir)?;
    check_sequence(settings.sequence, settings.evaluation_tokens, &config)?;
    settings.clustering.rules.check(&config)?;
    let plan = planned(settings);
    check_widths(settings, &config)?;
    plan.iter()
        .try_for_each(|planned| planned.check(settings, &config, device))?;
    let checkpoint = Checkpoint::open(&settings.model_dir)?;
    let mut model: DynamicLlama<D> = DynamicLlama::from_checkpoint(&checkpoint, &config, device)?;
    let size_bytes = checkpoint.file_bytes();
    drop(checkpoint);
    observer.stage(Stage::LoadData);
    let tokenizer = Tokenizer::from_dir(&settings.model_dir)?;
    tokenizer.check_vocabulary(config.vocab_size)?;
    let mut read = |source| {
        stream(source, &tokenizer, &mut |share| observer.advance(share)).map_err(|error| stopped(error, settings))
    };
    let (training, mut validation) = (read(&settings.data)?, read(&settings.validation)?.to_measure());
    validation.truncate_each(settings.evaluation_tokens);
    check_length(
        &training,
        settings.sequence,
        &named("the training text", &settings.data),
    )?;
    check_length(
        &validation,
        settings.sequence,
        &named("the validation text", &settings.validation),
    )?;

    let prints = [
        model_fingerprint(&mut model),
        training.fingerprint(),
        validation.fingerprint(),
    ];
    plan.iter()
        .try_for_each(|planned| planned.check_memory(settings, &config, training.len(), device))?;
    drop(training);
    let conditions = Conditions::new(settings, prints);
    let _lock = conditions.settle(&settings.out, settings.overwrite)?;
    let mut done = runs::read(&settings.out)?;
    let mut comparison = Comparison {
        original: Original {
            perplexity: match done.iter().find_map(|run| run.original_perplexity) {
                Some(known) => known,
                None => {
                    observer.stage(Stage::EvaluateBefore);
                    let before = perplexity(&model, &validation, settings.sequence, &mut |share| {
                        observer.advance(share)
                    });
                    let before = before.map_err(|error| stopped(error, settings))?;
                    observer.result(&format!("perplexity {}", perplexity_in_words(before.perplexity)));
                    before.perplexity
                }
            },
            size_bytes,
        },
        rows: Vec::new(),
        runs: Vec::new(),
        conditions,
    };
    drop(model);
    // what was run before under the same conditions is in the table too
    let mut all = plan.clone();
    for run in &done {
        if let Some(earlier) = Planned::of(run).filter(|_| !all.iter().any(|planned| planned.is(run))) {
            all.push(earlier);
        }
    }
    let wanted = |run: &RunFigures| plan.iter().any(|planned| planned.is(run));
    let (count, known) = (plan.len(), done.iter().filter(|run| wanted(run)).count());
    if known > 0 {
        observer.result(&format!("{known} of {count} runs are done"));
    }
    for planned in &plan {
        if done.iter().any(|run| planned.is(run)) {
            continue;
        }
        let run = planned.run(settings, &config, &validation, device, observer);
        let mut run = run.map_err(|error| stopped(error, settings))?;
        run.original_perplexity = Some(comparison.original.perplexity);
        runs::append(&settings.out, &run)?;
        let words = run.in_words();
        done.push(run);
        comparison.fill(&all, &done);
        comparison.write(&settings.out)?;
        let finished = done.iter().filter(|run| wanted(run)).count();
        observer.result(&format!("run {finished} of {count}: {words}"));
    }
    comparison.fill(&all, &done);
    comparison.write(&settings.out)?;
    Ok(comparison)
}

/// What the end of a run is to the comparison, if it was asked for.
fn stopped(error: TrainError, settings: &CompareSettings) -> TrainError {
    match error {
        TrainError::Interrupted { .. } | TrainError::Stopped => TrainError::ComparisonInterrupted {
            out: settings.out.clone(),
        },
        other => other,
    }
}

/// Refuses numbers of bits that make no difference, since rules for single layers set those of all.
fn check_widths(settings: &CompareSettings, config: &LlamaConfig) -> Result<(), TrainError> {
    let bits_of = |bits: Bits| {
        let clustering = ClusterSettings {
            bits,
            ..settings.clustering.clone()
        };
        let specs = parameters(config).filter_map(|parameter| clustering.spec(&parameter));
        specs.map(|spec| spec.bits).collect::<Vec<_>>()
    };
    let mut seen: Vec<(Bits, Vec<Bits>)> = Vec::new();
    for &width in &settings.widths {
        let Width::Bits(bits) = width else { continue };
        let all = bits_of(bits);
        if let Some((other, _)) = seen.iter().find(|(other, of_other)| *other != bits && *of_other == all) {
            return Err(TrainError::Setting {
                setting: "bits",
                value: format!("{} and {}", other.get(), bits.get()),
                expected: "one number, or --layers without bits: its rules set those of every layer",
            });
        }
        seen.push((bits, all));
    }
    Ok(())
}
