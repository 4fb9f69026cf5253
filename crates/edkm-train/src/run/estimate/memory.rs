//! Memory of each part of a run.

use super::sizes::ModelSizes;
use super::{share, Share, StageMemory, TextSizes, When};
use edkm_llama::model::Distillation;

use crate::run::{FinetuneSettings, Measure, Objective};

/// What the program holds that no size of the model explains: code, stacks, packed tiles of the matrix products, the thread pool. What it
/// holds when the estimate is made counts as measured, and this is what comes to it (release build, x86-64 Linux, two threads). Blocks that the
/// allocator keeps after they were freed are in no share: up to some tens of MiB with glibc, whatever the model.
const PROGRAM: u64 = 14 << 20;

/// Memory of a tokenizer over the bytes of its file.
const TOKENIZER: u64 = 12;

/// Documents are encoded together once they have so many bytes (see `data`).
const ENCODED_TOGETHER: u64 = 4 << 20;

/// Tokens of one forward pass of an evaluation (see `evaluate`).
const EVALUATED_TOGETHER: u64 = 2048;

/// The name of a share: the moments.
pub(super) const OPTIMIZER: &str = "optimizer";

/// The name of a share: all passes of a step are drawn from the text before the first runs.
pub(super) const TEXT_OF_A_STEP: &str = "text of a step";

/// The parts of the run, in their order. The process holds `program` bytes before it begins.
pub(super) fn stages(
    settings: &FinetuneSettings,
    model: &ModelSizes,
    text: &TextSizes,
    program: u64,
) -> Vec<StageMemory> {
    let always = |stage, shares| StageMemory::new(stage, When::Always, shares);
    let held = held(program, text, model);
    let with = |shares: Vec<Share>| [held.clone(), shares].concat();
    let weights = share("weights", model.parameters);
    let evaluation = share("evaluation", evaluation(settings, model));
    let budget = settings
        .clustering
        .as_ref()
        .and_then(|clustering| clustering.bits_budget);

    let mut stages = vec![always("reading the text", with(vec![weights.clone(), encoding(text)]))];
    if budget.is_some() {
        stages.push(always("squared gradients", with(squared_gradients(settings, model))));
        // each layer's weights and importances, and the model with palettes
        let layers = share("layers that are tried", 2 * model.clustered);
        let palettized = share("palettized model", model.clustered);
        let tried = share("the op that runs", evaluation.bytes.max(3 * model.clustering_buffers));
        stages.push(always(
            "choice of bits",
            with(vec![weights.clone(), layers, palettized, tried]),
        ));
    }
    stages.push(always("evaluation", with(vec![weights.clone(), evaluation.clone()])));
    if let (Measure::Yes, true) = (settings.baselines, model.clustered > 0) {
        let compressed = share("compressed model", model.parameters + model.clustered / 4);
        stages.push(always(
            "evaluation without training",
            with(vec![weights.clone(), compressed, evaluation]),
        ));
    }
    let kept = kept(settings, model);
    stages.push(always(
        "training",
        with([kept.clone(), training(settings, model)].concat()),
    ));
    // the parameters are written and dropped before the optimizer's state is copied
    let copies = share("copies of optimizer state", model.moments);
    stages.push(StageMemory::new(
        "checkpoint",
        match settings.checkpoints.every {
            Some(_) => When::Always,
            None => When::Interrupted,
        },
        with([kept, vec![copies]].concat()),
    ));
    stages
}

/// What is there throughout.
fn held(program: u64, text: &TextSizes, model: &ModelSizes) -> Vec<Share> {
    vec![
        share("program", program + PROGRAM),
        share(
            "data",
            4 * text.tokens + TOKENIZER * text.tokenizer_bytes + model.rotary,
        ),
    ]
}

/// A batch of documents, and its tokens before they are joined to the others.
fn encoding(text: &TextSizes) -> Share {
    let together = text.bytes.min(ENCODED_TOGETHER);
    let tokens = match text.bytes {
        0 => 0,
        bytes => (text.tokens as f64 * together as f64 / bytes as f64) as u64,
    };
    share("documents", together + 4 * tokens)
}

fn evaluation(settings: &FinetuneSettings, model: &ModelSizes) -> u64 {
    let sequence = settings.sequence as u64;
    let tokens = (EVALUATED_TOGETHER / sequence.max(1)).max(1) * sequence;
    model.forward_of_layer(tokens).max(model.loss(tokens, 1))
}

/// A backward pass of one sequence, and the squares that are summed.
fn squared_gradients(settings: &FinetuneSettings, model: &ModelSizes) -> Vec<Share> {
    let sequence = settings.sequence as u64;
    let of_layer = model.saved_by_layer(settings.recompute, sequence, sequence);
    let work = model.work_of_layer(settings.recompute, sequence, sequence);
    vec![
        share("weights", model.parameters),
        share("squared gradients", model.parameters),
        share("gradients", model.parameters),
        share("saved for backward", model.layers.saturating_mul(of_layer)),
        share("the op that runs", work.max(model.loss(sequence, 1))),
    ]
}

/// What stays from step to step.
fn kept(settings: &FinetuneSettings, model: &ModelSizes) -> Vec<Share> {
    let mut kept = vec![share("weights", model.parameters)];
    if let Objective::Teacher(_) = settings.objective {
        kept.push(share("teacher", model.parameters));
    }
    kept.push(share(OPTIMIZER, model.moments));
    kept.push(share("clustering", model.clustering_buffers.max(model.head_buffers)));
    kept
}

/// What comes to it within a step. Either backward begins, everything is saved and few gradients are there; or it ends, and all gradients are there.
fn training(settings: &FinetuneSettings, model: &ModelSizes) -> Vec<Share> {
    let (tokens, sequence) = (
        (settings.batch as u64).saturating_mul(settings.sequence as u64),
        settings.sequence as u64,
    );
    let (recompute, models) = (
        settings.recompute,
        match settings.objective {
            Objective::Text => 1,
            Objective::Teacher(_) => 2,
        },
    );
    let hidden_states = match settings.objective {
        Objective::Teacher(Distillation { hidden, .. }) if hidden != 0.0 => model.hidden(tokens),
        _ => 0,
    };
    let of_layer = model
        .saved_by_layer(recompute, tokens, sequence)
        .saturating_add(hidden_states);
    let work = model.work_of_layer(recompute, tokens, sequence);
    // behind the layers: the last norm's input, and the teacher's hidden states
    let saved = model
        .layers
        .saturating_mul(of_layer)
        .saturating_add(model.hidden(tokens).saturating_mul(models));
    // what was spilled comes back a layer at a time
    let spilled = |budget: u64| saved.min(budget.saturating_add(of_layer));
    let in_memory = settings.store.spill_budget().map_or(saved, |budget| spilled(budget.0));
    let first_gradients = match settings.accumulate {
        0 | 1 => model.head,
        _ => model.parameters,
    };
    let begins = [in_memory, first_gradients, work.max(model.loss(tokens, models))];
    let ends = [of_layer, model.parameters, work];
    let sum = |shares: [u64; 3]| shares.into_iter().fold(0, u64::saturating_add);
    let [saved, gradients, work] = match sum(begins) > sum(ends) {
        true => begins,
        false => ends,
    };
    // tokens, those to predict, and their weights, of all passes of the step
    let text = 12u64.saturating_mul(tokens).saturating_mul(settings.accumulate as u64);
    vec![
        share("gradients", gradients),
        share("saved for backward", saved),
        share("the op that runs", work),
        share(TEXT_OF_A_STEP, text),
    ]
}
