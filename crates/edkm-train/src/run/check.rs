//! What is refused of a run's settings before any work.

use std::path::Path;

use edkm_cluster::{Initialization, KeepZero, Spec};
use edkm_llama::config::LlamaConfig;
use edkm_llama::files::canonical;
use edkm_llama::model::ClusterPlan;
use edkm_llama::names::parameters;

use super::{count, ClusterSettings, FinetuneSettings, FirstPalettes, KeptModel, Objective, OnNonFinite};
use crate::lesson::Lesson;
use crate::schedule::LearningRate;
use crate::trainer::Update;
use crate::TrainError;

/// Sequences and forward passes of a step, checkpoints: more than this is a slip of the keyboard, and sizes would overflow.
const MOST: usize = 1 << 30;

/// Everything but what needs the model or the text.
pub(super) fn check(settings: &FinetuneSettings) -> Result<(), TrainError> {
    check_apart(&settings.model_dir, &settings.out)?;
    if let Some(teacher) = &settings.teacher_dir {
        check_apart(teacher, &settings.out)?;
    }
    LearningRate::cosine(settings.learning_rate, settings.steps)?;
    check_policy(settings)?;
    check_update(settings)?;
    check_kept_model(settings)?;
    check_objective(settings.objective)?;
    check_numbers(&[
        ("number of tokens of a sequence, --seq,", settings.sequence),
        ("number of sequences, --batch,", settings.batch),
        ("number of forward passes, --accumulate,", settings.accumulate),
        ("number of checkpoints that stay, --keep,", settings.checkpoints.keep),
    ])?;
    let decay = settings.weight_decay;
    let is_decay = decay.is_finite() && decay >= 0.0;
    holds("weight decay", decay, "a finite number from 0", is_decay)?;
    match &settings.clustering {
        Some(clustering) => check_clustering(clustering, settings.steps),
        None => Ok(()),
    }
}

/// Numbers of which there must be one.
fn check_numbers(numbers: &[(&'static str, usize)]) -> Result<(), TrainError> {
    numbers
        .iter()
        .try_for_each(|&(setting, value)| holds(setting, value, "from 1 to 1073741824", (1..=MOST).contains(&value)))
}

/// Sequences of a step.
pub(crate) fn check_batch(batch: usize) -> Result<(), TrainError> {
    check_numbers(&[("number of sequences, --batch,", batch)])
}

/// What of a clustering depends neither on the layers nor on the text.
pub(super) fn check_clustering(clustering: &ClusterSettings, steps: u64) -> Result<(), TrainError> {
    let from = clustering.from_step;
    if from > 0 && from >= steps {
        return Err(TrainError::Setting {
            setting: "number of steps before clustering, --cluster-from,",
            value: format!("{from} in a run of {}", count(steps, "step")),
            expected: "less than --steps",
        });
    }
    let falls = clustering.temperature.steps();
    holds(
        "number of steps over which the temperature falls",
        falls.unwrap_or(steps),
        "the steps of the run, as ClusterSettings::new is given them",
        falls.is_none_or(|falls| falls == steps),
    )?;
    check_budget(clustering)?;
    clustering.check(steps)
}

/// Bits a weight, if there is a budget of them.
pub(super) fn check_budget(clustering: &ClusterSettings) -> Result<(), TrainError> {
    let Some(budget) = clustering.bits_budget else {
        return Ok(());
    };
    let is_budget = budget.is_finite() && budget > 0.0;
    holds("budget of bits a weight", budget, "a finite number above 0", is_budget)
}

/// What depends on the layers: quantiles of vectors, which have no order; zeros that are to stay zero and move in the steps before clustering.
pub(super) fn check_clustering_of(config: &LlamaConfig, clustering: &ClusterSettings) -> Result<(), TrainError> {
    let refuse = |setting, value: &dyn Fn(&str) -> String, expected, is_wrong: &dyn Fn(&Spec) -> bool| {
        let is_wrong = |parameter: &_| clustering.spec(parameter).is_some_and(|spec| is_wrong(&spec));
        match parameters(config).find(is_wrong) {
            None => Ok(()),
            Some(parameter) => Err(TrainError::Setting {
                setting,
                value: value(&parameter.name),
                expected,
            }),
        }
    };
    if clustering.first_palettes == FirstPalettes::Weights(Initialization::Quantile) {
        refuse(
            "init",
            &|name| format!("quantile, with the vectors of {name}"),
            "kmeans, kmeans++ or weighted where weights are clustered as vectors",
            &|spec| spec.dim() > 1,
        )?;
    }
    if clustering.from_step > 0 {
        refuse(
            "number of steps before clustering, --cluster-from,",
            &|name| {
                format!(
                    "{}, with zeros of {name} that are to stay (keep-zero)",
                    clustering.from_step
                )
            },
            "0: weights of zero move in steps that do not cluster them",
            &|spec| spec.keep_zero == KeepZero::Exact,
        )?;
    }
    Ok(())
}

fn holds(
    setting: &'static str,
    value: impl std::fmt::Debug,
    expected: &'static str,
    holds: bool,
) -> Result<(), TrainError> {
    match holds {
        true => Ok(()),
        false => Err(TrainError::Setting {
            setting,
            value: format!("{value:?}"),
            expected,
        }),
    }
}

/// A result is not put in the place of the model that it comes from, and not around it.
///
/// # Errors
/// [`TrainError::Setting`] if it would be.
pub fn check_apart(model_dir: &Path, out: &Path) -> Result<(), TrainError> {
    let (Ok(model), Ok(out)) = (canonical(model_dir), canonical(out)) else {
        // one of them is not there: another check says so, or there is nothing to lose
        return Ok(());
    };
    match model.starts_with(&out) {
        true => Err(TrainError::Setting {
            setting: "folder to write",
            value: format!("{}, which holds the model itself", out.display()),
            expected: "another folder: the model would be lost",
        }),
        false => Ok(()),
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

/// The best of what is measured needs measurements.
fn check_kept_model(settings: &FinetuneSettings) -> Result<(), TrainError> {
    let refuse = |value| {
        Err(TrainError::Setting {
            setting: "keep-best",
            value,
            expected: "--eval-every N with it, of fewer steps than the run has",
        })
    };
    match (settings.kept_model, settings.evaluate_every) {
        (KeptModel::Last, _) => Ok(()),
        (KeptModel::Best, None) => refuse("without measurements on the way".to_owned()),
        (KeptModel::Best, Some(every)) if every.get() >= settings.steps => refuse(format!(
            "with a measurement every {every} steps of {}, none on the way",
            settings.steps
        )),
        (KeptModel::Best, Some(_)) => Ok(()),
    }
}

/// A step that updates in backward has no gradients left to add to.
fn check_update(settings: &FinetuneSettings) -> Result<(), TrainError> {
    match (settings.update, settings.accumulate) {
        (Update::InBackward, 2..) => Err(TrainError::Setting {
            setting: "update-in-backward",
            value: format!("with --accumulate {}", settings.accumulate),
            expected: "--accumulate 1, since no gradients are kept for the next forward pass",
        }),
        _ => Ok(()),
    }
}

fn check_objective(objective: Objective) -> Result<(), TrainError> {
    let Objective::Teacher(Lesson { share, hidden, fade }) = objective else {
        return Ok(());
    };
    for share in [share.from, share.to] {
        let is_share = (0.0..=1.0).contains(&share);
        holds(
            "share of distillation",
            share,
            "a part of the loss from 0 to 1",
            is_share,
        )?;
    }
    for weight in [hidden.from, hidden.to] {
        let is_weight = weight.is_finite() && weight >= 0.0;
        holds(
            "weight of hidden states in distillation",
            weight,
            "a finite number from 0",
            is_weight,
        )?;
    }
    holds("fade of distillation", fade, "nats a token from 0, or inf", fade >= 0.0)
}

/// A sequence must fit the model's positions, and the tokens that are measured on must hold one.
pub(crate) fn check_sequence(
    sequence: usize,
    evaluation_tokens: usize,
    config: &LlamaConfig,
) -> Result<(), TrainError> {
    check_positions(sequence, config)?;
    holds(
        "number of tokens to measure on, --eval-tokens,",
        evaluation_tokens,
        "more than those of a sequence, --seq",
        evaluation_tokens > sequence,
    )
}

/// A sequence must fit the model's positions.
pub(crate) fn check_positions(sequence: usize, config: &LlamaConfig) -> Result<(), TrainError> {
    let limit = config.context_limit();
    if sequence > limit {
        return Err(TrainError::Setting {
            setting: "sequence length",
            value: format!("{sequence} (the model has {limit} positions)"),
            expected: "at most the model's max_position_embeddings, or sliding_window",
        });
    }
    Ok(())
}
