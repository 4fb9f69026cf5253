//! `edkm finetune`

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use dfdx_edkm::EdkmDevice;
use edkm_llama::checkpoint::Overwrite;
use edkm_llama::config::LlamaConfig;
use edkm_train::evaluate::perplexity_in_words;
use edkm_train::lesson::{Lesson, Ramp};
use edkm_train::metrics;
use edkm_train::run::checkpoint::{completed, CheckpointSettings, Start};
use edkm_train::run::estimate::{estimate, Estimate};
use edkm_train::run::{
    count, finetune, free_folder, plan_finetune, DataSource, FinetuneOutcome, FinetuneSettings, KeptModel, Measure,
    ModelPalettes, Objective, OnLimits, PlannedLayer, TrainingText,
};

use super::{plan, recompute, update, Failure};
use crate::args::FinetuneArgs;
use crate::console::{bytes, note, Output};
use crate::device::OnDevice;
use crate::embedded;
use crate::hub;
use crate::progress::Progress;
use crate::run_log::{RunLog, PROGRESS};
use crate::started::Started;

/// The folder that is written if none is named.
const DEFAULT_OUT: &str = "edkm-out";

pub fn run(args: FinetuneArgs, log: RunLog) -> Result<(), Failure> {
    let (mut args, start, mut started) = match &args.resume {
        None => (args, Start::Fresh, Started::now()?),
        Some(out) => {
            let out = &Started::out_of(out);
            if let Some(figures) = completed(&std::path::absolute(out)?)? {
                note(format_args!("the run is complete: {} is whole", out.display()));
                // whether JSON was asked for was said to the run, whose figures they are: a person is told in words
                let output = Output::new(args.json || !std::io::stdout().is_terminal());
                for (name, key) in [("original", "perplexity_before"), ("fine-tuned", "perplexity_after")] {
                    let perplexity = figures[key].as_f64().map_or("?".to_owned(), perplexity_in_words);
                    output.line(format!("perplexity, {name:10} {perplexity:>10}"));
                }
                return output.json(&figures);
            }
            let here = &args;
            let (mut args, started) = Started::read(out)?;
            args.json |= here.json;
            args.ignore_limits |= here.ignore_limits;
            args.dry_run = here.dry_run;
            args.clustering.palettes.rules = Some(started.layers()?);
            let start = match here.finish {
                true => Start::Finish,
                false => Start::Resume,
            };
            (args, start, started)
        }
    };
    let output = Output::new(args.json);
    let embedded_folder = match &args.model_dir {
        Some(_) => None,
        None => {
            let folder = tempfile::Builder::new().prefix("edkm-tiny-llama-").tempdir()?;
            embedded::write_to(folder.path())?;
            Some(folder)
        }
    };
    let embedded_folder = embedded_folder.as_ref().map(|folder| folder.path());
    let inputs = Inputs::of(&args, embedded_folder)?;
    let mut settings = settings_of(&args, &inputs)?;
    if let Some(epochs) = args.epochs {
        output.progress("reading the text, for --epochs");
        let text = TrainingText::read(&settings)?;
        args.steps = text.steps(&settings, epochs)?;
        started = started.with_steps(args.steps);
        settings = settings_of(&args, &inputs)?;
        if args.dry_run {
            output.line(text.line(&settings));
        }
    }
    if args.clustering.plan {
        let work = Plan {
            settings: &settings,
            output,
        };
        return plan::show(output, args.device.run(work)?);
    }
    if let Some(clustering) = &settings.clustering {
        started = started.with_layers(&clustering.rules);
    }
    settings.out = started.out.clone().unwrap_or(std::path::absolute(&settings.out)?);
    settings.checkpoints = CheckpointSettings {
        every: args.checkpoint_every,
        keep: args.keep,
        start,
        arguments: started.with_out(&settings.out)?,
    };
    if args.dry_run {
        let work = DryRun { settings: &settings };
        return super::dry_run::show(output, &args.device.run(work)?, settings.on_limits);
    }
    let is_compressed = inputs.compressed.is_some();
    if settings.teacher_dir.is_none() && settings.taught_from() == Some(0) && is_compressed {
        note(format_args!(
            "{} is compressed already, and will learn from itself; with --teacher ORIGINAL it learns from the model that it was made of",
            settings.model_dir.display()
        ));
    }
    if let (Start::Fresh, Some(clustering)) = (start, &settings.clustering) {
        plan::note_if_larger(&inputs.config, clustering);
    }
    if let (Start::Fresh, Some(palettes)) = (start, &inputs.compressed) {
        say_palettes(&args, &settings, palettes);
    }
    if let Some(every) = settings.evaluate_every.filter(|every| every.get() >= settings.steps) {
        note(format_args!(
            "--eval-every {every} measures nothing on the way of {}",
            count(settings.steps, "step")
        ));
    }
    tracing::info!(target: PROGRESS, "edkm {}: {}", env!("CARGO_PKG_VERSION"), settings.checkpoints.arguments);
    let outcome = args.device.run(Training {
        settings: &settings,
        output,
        log,
    })?;
    show(output, &settings, &outcome);
    // the run is done: that its folder is gone by now is no error of it
    let guessing = LlamaConfig::read(&settings.out).map_or(f64::INFINITY, |config| config.vocab_size as f64);
    if outcome.perplexity_after.is_nan() || outcome.perplexity_after >= guessing {
        note(format_args!(
            "the result predicts no better than guessing among its {guessing} tokens: the training diverged, or the model was none; a lower --lr is the first thing to try"
        ));
    }
    let later = settings.steps / 2;
    // of a compressed model it is the palettes that get better
    let was_new = outcome.perplexity_after < NEW_TEXT * outcome.perplexity_before && !is_compressed;
    let is_usual = settings.taught_from() == Some(0) && settings.teacher_dir.is_none();
    if was_new && is_usual && settings.may_cluster_from(later) {
        note(format_args!(
            "the text was new to the model (perplexity {} before, {} after); such runs reach more if they learn the text first, as with --cluster-from {}",
            perplexity_in_words(outcome.perplexity_before),
            perplexity_in_words(outcome.perplexity_after),
            later
        ));
    }
    if let Some((steps, lowest)) = better_on_its_way(&settings, &outcome) {
        note(format_args!(
            "the model was better on its way (perplexity {} after {}, {} after {}); --keep-best writes the best that is measured",
            perplexity_in_words(lowest),
            count(steps, "step"),
            perplexity_in_words(outcome.perplexity_after),
            outcome.steps
        ));
    }
    output.json(&outcome)?;
    Ok(())
}

/// How much lower a perplexity on the way is, of that of the result, to be worth a word.
const BETTER: f64 = 0.99;

/// Steps and perplexity of a model on the way that was better than the one that is written, and could have been.
fn better_on_its_way(settings: &FinetuneSettings, outcome: &FinetuneOutcome) -> Option<(u64, f64)> {
    let steps = metrics::read(&settings.out.join("metrics.jsonl")).ok()?;
    let measured = steps
        .iter()
        .filter_map(|step| Some((step.step + 1, step.validation_perplexity?)));
    let best = measured.min_by(|a, b| a.1.total_cmp(&b.1))?;
    (settings.kept_model == KeptModel::Last && best.1 < BETTER * outcome.perplexity_after).then_some(best)
}

/// Says whether the palettes of a compressed model stay what they are: the run may not have been told what the model was made with.
fn say_palettes(args: &FinetuneArgs, settings: &FinetuneSettings, palettes: &ModelPalettes) {
    let Some(clustering) = &settings.clustering else {
        return;
    };
    let model_dir = settings.model_dir.display();
    match palettes.others(clustering) {
        None if args.clustering.keep_palettes() => note(format_args!(
            "{model_dir} is compressed, and its palettes stay what they are ({}); --bits and the other options of palettes make other ones",
            palettes.in_words()
        )),
        None => {}
        Some(other) => {
            let more = match other.more {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            note(format_args!(
                "{model_dir} is compressed otherwise than this run compresses ({}: {} there, {} here{more}); to train its palettes on, give no option of palettes",
                other.name, other.there, other.here
            ));
        }
    }
}

/// A text is taken for new to a model that has so much of its perplexity, or less, after training.
const NEW_TEXT: f64 = 0.9;

/// What each layer would get.
struct Plan<'a> {
    settings: &'a FinetuneSettings,
    output: Output,
}

impl OnDevice for Plan<'_> {
    type Output = Vec<PlannedLayer>;

    fn run<D: EdkmDevice>(self, device: &D) -> Result<Self::Output, Failure> {
        let mut progress = Progress::new(self.output).with_signals()?;
        Ok(plan_finetune(self.settings, device, &mut progress)?)
    }
}

/// What the run would take.
struct DryRun<'a> {
    settings: &'a FinetuneSettings,
}

impl OnDevice for DryRun<'_> {
    type Output = Estimate;

    fn run<D: EdkmDevice>(self, device: &D) -> Result<Estimate, Failure> {
        Ok(estimate(self.settings, device)?)
    }
}

/// The whole run.
struct Training<'a> {
    settings: &'a FinetuneSettings,
    output: Output,
    log: RunLog,
}

impl OnDevice for Training<'_> {
    type Output = FinetuneOutcome;

    fn run<D: EdkmDevice>(self, device: &D) -> Result<FinetuneOutcome, Failure> {
        let mut progress = Progress::new(self.output).with_log(self.log).with_signals()?;
        Ok(finetune(self.settings, device, &mut progress)?)
    }
}

/// What a run reads, as far as it is known before the run begins.
struct Inputs {
    model_dir: PathBuf,
    config: LlamaConfig,
    /// The palettes of a model that has some.
    compressed: Option<ModelPalettes>,
    data: DataSource,
    validation: DataSource,
    /// It is the embedded model.
    is_embedded: bool,
}

impl Inputs {
    fn of(args: &FinetuneArgs, embedded_folder: Option<&Path>) -> Result<Self, Failure> {
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

fn settings_of(args: &FinetuneArgs, inputs: &Inputs) -> Result<FinetuneSettings, Failure> {
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
                    .settings(args.steps, &inputs.config, inputs.compressed.as_ref())?;
            (Some(clustering), Some(rate))
        }
    };
    let baselines = if args.baselines || inputs.is_embedded {
        Measure::Yes
    } else {
        Measure::No
    };
    let (store, device_share) = args.device.storage(args.store.as_deref(), args.device_memory)?;
    let out = args.out.clone().unwrap_or_else(|| free_folder(Path::new(DEFAULT_OUT)));
    let defaults = FinetuneSettings::new(
        inputs.model_dir.clone(),
        inputs.data.clone(),
        clustering,
        args.steps,
        out,
    );
    Ok(FinetuneSettings {
        validation: inputs.validation.clone(),
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
        overwrite: if args.overwrite {
            Overwrite::Replace
        } else {
            Overwrite::Refuse
        },
        on_non_finite: args.on_non_finite.into(),
        device_share,
        on_limits: match args.ignore_limits {
            false => OnLimits::Refuse,
            true => OnLimits::Ignore,
        },
        ..defaults
    })
}

/// Whether two models have hidden states that can be compared.
fn have_states_alike(model: &LlamaConfig, teacher: &Path) -> Result<bool, Failure> {
    let sizes = |config: &LlamaConfig| (config.num_hidden_layers, config.hidden_size);
    Ok(sizes(model) == sizes(&LlamaConfig::read(teacher)?))
}

/// What each layer of the store did, as a table.
fn show_store(output: Output, outcome: &FinetuneOutcome) {
    if outcome.store_layers.iter().all(|layer| layer.saves == 0) {
        // this process made no step
        return;
    }
    output.line(format!(
        "  {:18}{:>12}{:>12}{:>9}{:>9}{:>10}{:>12}",
        "layer of the store", "given", "kept", "saves", "hits", "packing", "unpacking"
    ));
    for layer in &outcome.store_layers {
        output.line(format!(
            "  {:18}{:>12}{:>12}{:>9}{:>9}{:>8.2} s{:>10.2} s",
            layer.name,
            bytes(layer.logical_bytes),
            bytes(layer.kept_bytes),
            layer.saves,
            layer.hits,
            layer.pack_seconds,
            layer.unpack_seconds
        ));
    }
    if outcome.saved_bytes_device > 0 {
        output.line(format!("  on the device     {:>12}", bytes(outcome.saved_bytes_device)));
    }
    if outcome.saved_bytes_disk > 0 {
        output.line(format!("  on disk           {:>12}", bytes(outcome.saved_bytes_disk)));
    }
}

fn show(output: Output, settings: &FinetuneSettings, outcome: &FinetuneOutcome) {
    output.line("");
    output.line("perplexity");
    output.line(format!(
        "  original                  {:>10}",
        perplexity_in_words(outcome.perplexity_before)
    ));
    let bits = settings
        .clustering
        .as_ref()
        .zip(outcome.bits_per_weight)
        .map(|(clustering, bits_per_weight)| clustering.bits_in_words(bits_per_weight));
    let with_bits = |name: &str| match &bits {
        Some(bits) => format!("{bits}-bit {name}"),
        None => name.to_owned(),
    };
    for baseline in &outcome.baselines {
        let name = match baseline.method {
            "rtn" => "rounding",
            _ => "k-means",
        };
        let name = with_bits(&format!("{name}, no training"));
        output.line(format!("  {name:26} {:>9}", perplexity_in_words(baseline.perplexity)));
    }
    if outcome.kept_steps != outcome.steps {
        let last = with_bits(&format!("after {}", count(outcome.steps, "step")));
        output.line(format!(
            "  {last:26} {:>9}",
            perplexity_in_words(outcome.perplexity_last)
        ));
    }
    let result = match outcome.kept_steps == outcome.steps {
        true => with_bits("fine-tuned"),
        false => with_bits(&format!("after {}, kept", outcome.kept_steps)),
    };
    output.line(format!(
        "  {result:26} {:>9}",
        perplexity_in_words(outcome.perplexity_after)
    ));
    output.line("size of the model file");
    output.line(format!(
        "  before                    {:>10}",
        bytes(outcome.size_before_bytes)
    ));
    output.line(format!("  after                     {:>10}", bytes(outcome.size_bytes)));
    if let Some(bits) = outcome.bits_per_weight {
        output.line(format!("  bits a clustered weight   {bits:>10.3}  (palettes counted)"));
        output.line("kept for backward by the clustering");
        output.line(format!(
            "  here                      {:>10}",
            bytes(outcome.saved_bytes_clustering)
        ));
        let plain = bytes(outcome.saved_bytes_plain_dkm);
        output.line(format!(
            "  plain DKM                 {plain:>10}  (attention maps of weights x clusters)"
        ));
    }
    output.line(format!(
        "kept for backward by ops    {:>10}  (at the peak, activations)",
        bytes(outcome.saved_bytes_peak)
    ));
    show_store(output, outcome);
    if let Some((_, text)) = outcome.sample.texts.last() {
        output.line("the result goes on");
        output.line(format!(
            "  {} [...] {}",
            outcome.sample.prompt,
            text.trim().replace('\n', "\n  ")
        ));
    }
    if let Some(note) = outcome.non_finite.note() {
        output.line(note);
    }
    let steps = match outcome.steps == outcome.planned_steps {
        true => count(outcome.steps, "step"),
        false => format!("{} of {}", outcome.steps, count(outcome.planned_steps, "step")),
    };
    output.line(format!(
        "{steps}, {}, {:.1} s of {:.1} s in all",
        count(outcome.tokens, "token"),
        outcome.training_seconds,
        outcome.seconds
    ));
    output.line(format!("wrote {} (look at report.html)", outcome.out.display()));
}
