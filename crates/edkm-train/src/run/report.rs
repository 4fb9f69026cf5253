//! `report.html` of a run.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::path::Path;

use dfdx_edkm::{visit_clustered, EdkmDevice};
use edkm_llama::checkpoint::Checkpoint;
use edkm_llama::inference::{CacheType, GenerateOptions, InferenceModel, SamplingOptions, Session};
use edkm_llama::model::{DynamicLlama, PalettizedParameter};

use super::training_text::times;
use super::{count, FinetuneOutcome, FinetuneSettings, ModelPalettes};
use crate::metrics::StepMetrics;
use crate::report::{self, BeforeAfter, Contender, ContenderRole, ReportData, Sample, StoreFigures, WeightFigure};
use crate::text_generation::write_text;
use crate::{Tokenizer, TrainError};

/// Tokens of a sample.
const SAMPLE_TOKENS: usize = 100;

/// What both models write after `prompt`; they have one tokenizer. A model that cannot write (the original may be gone by now) writes nothing: a warning says why.
pub(super) fn sample(prompt: &[u32], tokenizer: &Tokenizer, original: &Path, result: &Path) -> Sample {
    let or_nothing = |text: Result<String, TrainError>| {
        text.unwrap_or_else(|why| {
            tracing::warn!("no sample: {why}");
            String::new()
        })
    };
    let texts = [("original", original), ("result", result)]
        .map(|(name, dir)| (name.to_owned(), or_nothing(continue_text(dir, tokenizer, prompt))));
    Sample {
        prompt: or_nothing(tokenizer.decode(prompt)).trim().to_owned(),
        texts: texts.into(),
    }
}

fn continue_text(model_dir: &Path, tokenizer: &Tokenizer, prompt: &[u32]) -> Result<String, TrainError> {
    let model = InferenceModel::open(model_dir)?;
    let mut tokens = prompt.to_vec();
    // a prompt that leaves no room loses its beginning
    tokens.drain(..tokens.len().saturating_sub(model.context_limit().div_ceil(2)));
    let context = (tokens.len() + SAMPLE_TOKENS).min(model.context_limit());
    let mut session = Session::new(&model, context, CacheType::F32)?;
    let options = GenerateOptions {
        max_tokens: SAMPLE_TOKENS,
        sampling: SamplingOptions {
            temperature: 0.5,
            ..SamplingOptions::default()
        },
        ..GenerateOptions::for_model(&model)
    };
    let stream = tokenizer.decode_stream_behind(&tokens);
    Ok(write_text(&mut session, stream, &tokens, &options, &[], |_| {
        ControlFlow::Continue(())
    })?
    .text)
}

/// The page, from the figures of the run and the two folders.
pub(super) fn data(
    settings: &FinetuneSettings,
    outcome: &FinetuneOutcome,
    (steps, weights): (Vec<StepMetrics>, Vec<WeightFigure>),
    sample: Sample,
    model_dir: &Path,
) -> Result<ReportData, TrainError> {
    let name = settings
        .model_dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let bits = settings.clustering.as_ref().zip(outcome.bits_per_weight);
    let bits = bits.map(|(clustering, bits)| clustering.bits_in_words(bits));
    let with_bits = |name: &str| match &bits {
        Some(bits) => format!("{name}, {bits} bits"),
        None => name.to_owned(),
    };
    let title = match bits {
        Some(_) => with_bits(&name),
        None => format!("{name}, fine-tuned"),
    };
    let mut comparison = vec![Contender {
        name: "original".into(),
        role: ContenderRole::Original,
        bits_per_weight: None,
        size_bytes: Some(outcome.size_before_bytes),
        perplexity: Some(outcome.perplexity_before),
    }];
    comparison.extend(outcome.baselines.iter().map(|baseline| Contender {
        name: with_bits(baseline.method),
        role: ContenderRole::Baseline,
        // they have palettes of the same kind
        bits_per_weight: outcome.bits_per_weight,
        size_bytes: outcome.bits_per_weight.map(|_| outcome.size_bytes),
        perplexity: Some(baseline.perplexity),
    }));
    comparison.push(Contender {
        name: "result".into(),
        role: ContenderRole::Result,
        bits_per_weight: outcome.bits_per_weight,
        size_bytes: Some(outcome.size_bytes),
        perplexity: Some(outcome.perplexity_after),
    });
    let palettes = ModelPalettes::read(model_dir)?.map(|palettes| palettes.in_words());
    Ok(ReportData {
        title,
        settings: described(outcome, palettes),
        notes: outcome.non_finite.note().into_iter().collect(),
        size: Some(BeforeAfter {
            before: outcome.size_before_bytes,
            after: outcome.size_bytes,
        }),
        perplexity: Some(BeforeAfter {
            before: outcome.perplexity_before,
            after: outcome.perplexity_after,
        }),
        bits_per_weight: outcome.bits_per_weight,
        steps,
        comparison,
        weights,
        store: Some(StoreFigures {
            plain_dkm_bytes: settings.clustering.is_some().then_some(outcome.saved_bytes_plain_dkm),
            logical_bytes: outcome.saved_bytes_logical,
            layers: outcome.store_layers.clone(),
        }),
        samples: vec![sample],
    })
}

fn steps_in_words(outcome: &FinetuneOutcome) -> String {
    match outcome.steps == outcome.planned_steps {
        true => outcome.steps.to_string(),
        false => format!("{} of {}", outcome.steps, outcome.planned_steps),
    }
}

/// What the run was, the palettes of its result in words, and what it was made with.
fn described(outcome: &FinetuneOutcome, palettes: Option<String>) -> Vec<(String, String)> {
    let mut rows = vec![
        ("steps".to_owned(), steps_in_words(outcome)),
        ("tokens".to_owned(), outcome.tokens.to_string()),
        ("training text".to_owned(), outcome.training_text.to_string()),
        ("times through it".to_owned(), times(outcome.training_text.epochs)),
        (
            "seconds of training".to_owned(),
            format!("{:.1}", outcome.training_seconds),
        ),
    ];
    if outcome.kept_steps != outcome.steps {
        let kept = format!("that after {}, the best measured", count(outcome.kept_steps, "step"));
        rows.push(("model".to_owned(), kept));
    }
    if let Some(palettes) = palettes {
        rows.push(("palettes".to_owned(), palettes));
    }
    let known: Vec<String> = rows.iter().map(|(name, _)| name.clone()).collect();
    let settings = outcome.settings.rows().into_iter();
    rows.extend(settings.filter(|(name, _)| !known.contains(name)));
    rows
}

/// The weight matrices of a model as they are trained, with the palettes that they are written with.
pub(super) fn trained_weights<D: EdkmDevice>(
    model: &mut DynamicLlama<D>,
    palettes: &[PalettizedParameter],
) -> Vec<WeightFigure> {
    let mut figures = Vec::new();
    let Ok(()) = visit_clustered(model, |parameter| {
        if let Some(packed) = palettes.iter().find(|packed| packed.name == parameter.name) {
            figures.push(WeightFigure::of_matrix(
                parameter.name,
                &packed.matrix,
                Some(&parameter.weight()),
            ));
        }
        Ok::<_, Infallible>(())
    });
    figures
}

/// Those of a written model, of which there are the palettes' numbers alone.
pub(super) fn written_weights(model_dir: &Path) -> Result<Vec<WeightFigure>, TrainError> {
    let checkpoint = Checkpoint::open(model_dir)?;
    let matrices = checkpoint.weight_names().filter(|name| checkpoint.is_palettized(name));
    matrices
        .map(|name| Ok(WeightFigure::of_matrix(name, &checkpoint.palettized(name)?, None)))
        .collect()
}

/// Writes the page into the folder.
pub(super) fn write(data: &ReportData, out: &Path) -> Result<(), TrainError> {
    report::write(&out.join("report.html"), data)
}
