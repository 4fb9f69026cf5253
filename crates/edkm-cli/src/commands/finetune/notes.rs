//! What a person is told beside the figures: before a run, and behind it.

use edkm_train::evaluate::perplexity_in_words;
use edkm_train::metrics;
use edkm_train::run::checkpoint::Start;
use edkm_train::run::{count, FinetuneOutcome, FinetuneSettings, KeptModel, ModelPalettes};

use super::inputs::Inputs;
use crate::args::FinetuneArgs;
use crate::commands::plan;
use crate::console;
use crate::run_log::{RunLog, PROGRESS};

/// A note that the log of the run has too.
fn tell(text: impl std::fmt::Display) {
    tracing::info!(target: PROGRESS, "{text}");
    console::note(text);
}

/// Notes on settings that may not be meant so.
pub fn before(args: &FinetuneArgs, settings: &FinetuneSettings, inputs: &Inputs, start: Start) {
    let is_compressed = inputs.compressed.is_some();
    if settings.teacher_dir.is_none() && settings.taught_from() == Some(0) && is_compressed {
        tell(format_args!(
            "{} is compressed already, and will learn from itself; with --teacher ORIGINAL it learns from the model that it was made of",
            settings.model_dir.display()
        ));
    }
    if let (Start::Fresh, Some(clustering)) = (start, &settings.clustering) {
        plan::note_if_larger(&inputs.config, clustering);
    }
    if let (Start::Fresh, Some(palettes)) = (start, &inputs.compressed) {
        say_palettes(args, settings, palettes);
    }
    if let (None, true) = (&settings.clustering, is_compressed) {
        tell(format_args!(
            "{} is compressed, and without clustering the result is not: its weights are plain numbers again",
            settings.model_dir.display()
        ));
    }
    if let Some(every) = settings.evaluate_every.filter(|every| every.get() >= settings.steps) {
        tell(format_args!(
            "--eval-every {every} measures nothing on the way of {}",
            count(settings.steps, "step")
        ));
    }
}

/// Notes on what the run came to, and on what would have been better.
pub fn after(settings: &FinetuneSettings, inputs: &Inputs, outcome: &FinetuneOutcome, log: &RunLog) {
    // the run's folder is gone, and its log lies in OUT
    drop(log.open_in(&settings.out));
    let guessing = inputs.config.vocab_size as f64;
    let (before, after) = (outcome.perplexity_before, outcome.perplexity_after);
    if after.is_nan() || after >= guessing {
        tell(match after <= before {
            // whatever it has learned
            true => format!(
                "the result predicts no better than guessing among its {guessing} tokens, nor did the model as it came: the text is foreign to it, or the model is none"
            ),
            false => format!(
                "the result predicts no better than guessing among its {guessing} tokens: the training diverged; a lower --lr is the first thing to try"
            ),
        });
    }
    let later = settings.steps / 2;
    // of a compressed model it is the palettes that get better
    let was_new = outcome.perplexity_after < NEW_TEXT * outcome.perplexity_before && inputs.compressed.is_none();
    let is_usual = settings.taught_from() == Some(0) && settings.teacher_dir.is_none();
    if was_new && is_usual && settings.steps >= ENOUGH_STEPS && settings.may_cluster_from(later) {
        tell(format_args!(
            "the text was new to the model (perplexity {} before, {} after); such runs usually reach more if they learn the text first, as with --cluster-from {}",
            perplexity_in_words(outcome.perplexity_before),
            perplexity_in_words(outcome.perplexity_after),
            later
        ));
    }
    if let Some((steps, lowest)) = better_on_its_way(settings, outcome) {
        tell(format_args!(
            "the model was better on its way (perplexity {} after {}, {} after {}); --keep-best writes the best that is measured",
            perplexity_in_words(lowest),
            count(steps, "step"),
            perplexity_in_words(outcome.perplexity_after),
            outcome.steps
        ));
    }
}

/// In fewer steps than these half of them are too few to learn a text in: with 60, alpaca and wiki came out worse.
const ENOUGH_STEPS: u64 = 100;

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
        None if args.clustering.keep_palettes() => tell(format_args!(
            "{model_dir} is compressed, and its palettes stay what they are ({}); --bits and the other options of palettes make other ones",
            palettes.in_words()
        )),
        None => {}
        Some(other) => {
            let more = match other.more {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            tell(format_args!(
                "{model_dir} is compressed otherwise than this run compresses ({}: {} there, {} here{more}); to train its palettes on, give no option of palettes",
                other.name, other.there, other.here
            ));
        }
    }
}

/// A text is taken for new to a model that has so much of its perplexity, or less, after training.
const NEW_TEXT: f64 = 0.9;
