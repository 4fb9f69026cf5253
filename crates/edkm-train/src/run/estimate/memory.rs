//! Memory of each part of a run.

use super::sizes::ModelSizes;
use super::{share, Share, StageMemory, TextSizes, When};

use crate::device_share::{what_fits, DeviceShare};
use crate::run::checkpoint::Start;
use crate::run::finetune::CALIBRATION_WINDOWS;
use crate::run::sensitivity::windows_of_moves;
use crate::run::{FinetuneSettings, FirstPalettes, Measure, Objective};

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

/// The name of a share: what ops save for backward.
pub(super) const SAVED: &str = "saved for backward";

/// The name of a share: the moments.
pub(super) const OPTIMIZER: &str = "optimizer";

/// The name of a share: the gradients of parameters.
pub(super) const GRADIENTS: &str = "gradients";

/// The name of a share: all passes of a step are drawn from the text before the first runs.
pub(super) const TEXT_OF_A_STEP: &str = "text of a step";

/// The memory in which the tensors of a run lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The host's, of which the process holds so many bytes before it begins.
    Host { held: u64 },
    /// A device's, of which so many bytes are free before it begins.
    Device { free: u64 },
}

/// The parts of the run, in their order, and what they take of the memory in which its tensors lie.
pub(super) fn stages(
    settings: &FinetuneSettings,
    model: &ModelSizes,
    text: &TextSizes,
    place: Place,
) -> Vec<StageMemory> {
    let always = |stage, shares| StageMemory::new(stage, When::Always, shares);
    let (held, documents) = match place {
        Place::Host { held } => (self::held(held, settings, text, model), vec![encoding(text)]),
        Place::Device { .. } => (vec![share("rotary table", model.rotary)], Vec::new()),
    };
    let held = [held, vec![other_teacher(model)]].concat();
    let with = |shares: Vec<Share>| [held.clone(), shares].concat();
    let weights = share("weights", model.parameters);
    let evaluation = share("evaluation", evaluation(settings, model));
    let budget = settings
        .clustering
        .as_ref()
        .and_then(|clustering| clustering.bits_budget);

    let mut stages = vec![always(
        "reading the text",
        with([vec![weights.clone()], documents].concat()),
    )];
    if settings.checkpoints.start == Start::Finish {
        let read = share("copy of the largest matrix", model.largest);
        stages.push(always(
            "reading the checkpoint",
            with([without_teacher(model), vec![read]].concat()),
        ));
        stages.push(always("evaluation", with(vec![weights, evaluation])));
        return match place {
            Place::Host { .. } => stages,
            Place::Device { .. } => stages.into_iter().map(with_driver).collect(),
        };
    }
    if budget.is_some() {
        stages.push(always("squared gradients", with(squared_gradients(settings, model))));
        // each layer's weights and importances, and the model with palettes
        let layers = share("layers that are tried", 2 * model.clustered);
        let palettized = share("palettized model", model.clustered);
        let moved = windows_of_moves(settings.sequence, CALIBRATION_WINDOWS).saturating_mul(settings.sequence);
        let hidden = share("hidden states", model.hidden(moved as u64));
        let tried = share("the op that runs", evaluation.bytes.max(3 * model.clustering_buffers));
        stages.push(always(
            "choice of bits",
            with(vec![weights.clone(), layers, palettized, hidden, tried]),
        ));
    }
    if let Some(clustering) = settings
        .clustering
        .as_ref()
        .filter(|clustering| clustering.first_palettes == FirstPalettes::SquaredGradients)
    {
        // where clustering begins later, the moments of the steps before and the teacher are there
        let beside = match clustering.from_step {
            0 => vec![teacher(settings, model)],
            _ => vec![teacher(settings, model), share(OPTIMIZER, model.moments)],
        };
        stages.push(always(
            "first palettes",
            with([squared_gradients(settings, model), beside].concat()),
        ));
    }
    stages.push(always("evaluation", with(vec![weights.clone(), evaluation.clone()])));
    if let (Measure::Yes, true) = (settings.baselines, model.clustered > 0) {
        let compressed = share("compressed model", model.parameters + model.clustered / 4);
        let shares = vec![
            weights.clone(),
            teacher(settings, model),
            compressed,
            evaluation.clone(),
        ];
        stages.push(always("evaluation without training", with(shares)));
    }
    let kept = kept(settings, model);
    stages.push(always(
        "training",
        with([kept.clone(), training(settings, model, place)].concat()),
    ));
    if settings.evaluate_every.is_some() {
        let palettized = share(
            "palettized model",
            model.clustered + model.clustered / 4 + model.rounded,
        );
        stages.push(always(
            "evaluation within training",
            with([kept.clone(), vec![palettized, evaluation]].concat()),
        ));
    }
    if let Place::Device { .. } = place {
        return stages.into_iter().map(with_driver).collect();
    }
    let copies = share("copy of the largest matrix", model.largest);
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

/// What a GPU's driver takes beside: a twentieth for blocks that do not fit what was freed, and half a GiB for itself. Measured on one H200, with
/// models of 1.1 and 6.7 billion parameters.
fn with_driver(stage: StageMemory) -> StageMemory {
    let driver = share("driver", (512 << 20) + stage.bytes / 20);
    StageMemory::new(stage.stage, stage.when, [stage.shares, vec![driver]].concat())
}

/// What a run takes of the host's memory while its tensors lie in a device's, of which so many bytes are free before it begins.
pub(super) fn beside_device(
    settings: &FinetuneSettings,
    model: &ModelSizes,
    text: &TextSizes,
    held: u64,
    free: u64,
) -> Vec<Share> {
    let makes_steps = settings.checkpoints.start != Start::Finish;
    let saved = if makes_steps { saved(settings, model) } else { 0 };
    let in_store = match settings.store.spill_budget() {
        _ if on_device(settings, model, free) >= saved => 0,
        Some(budget) => saved.min(budget.0),
        None => saved - on_device(settings, model, free),
    };
    let copies = share("copy of the largest matrix", model.largest);
    let text_of_step = share(TEXT_OF_A_STEP, if makes_steps { text_of_step(settings) } else { 0 });
    [
        self::held(held, settings, text, model),
        vec![share(SAVED, in_store), text_of_step, copies],
    ]
    .concat()
}

/// What is there throughout.
fn held(program: u64, settings: &FinetuneSettings, text: &TextSizes, model: &ModelSizes) -> Vec<Share> {
    vec![
        share("program", program + PROGRAM),
        share(
            "data",
            text.stream + order(settings, text) + TOKENIZER * text.tokenizer_bytes + model.rotary,
        ),
    ]
}

/// A batch of documents, and its tokens before they are joined to the others.
fn encoding(text: &TextSizes) -> Share {
    let together = text.bytes.min(ENCODED_TOGETHER);
    let tokens = match text.bytes {
        0 => 0,
        bytes => (text.stream as f64 * together as f64 / bytes as f64) as u64,
    };
    share("documents", together + tokens)
}

/// The order of an epoch, and that of the next while it is made: where each record and each window lies.
fn order(settings: &FinetuneSettings, text: &TextSizes) -> u64 {
    let windows = text.tokens / settings.sequence.max(1) as u64;
    56 * text.parts + 40 * windows
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
        share(GRADIENTS, model.largest_part),
        share(SAVED, model.layers.saturating_mul(of_layer)),
        share(
            "the op that runs",
            work.max(model.loss(sequence, 1)).max(model.ahead(sequence, 1)),
        ),
    ]
}

/// What stays from step to step.
fn kept(settings: &FinetuneSettings, model: &ModelSizes) -> Vec<Share> {
    [without_teacher(model), vec![teacher(settings, model)]].concat()
}

fn without_teacher(model: &ModelSizes) -> Vec<Share> {
    vec![
        share("weights", model.parameters),
        share(OPTIMIZER, model.moments),
        share(
            "clustering",
            model
                .clustering_buffers
                .max(model.head_buffers)
                .saturating_add(model.palettes),
        ),
    ]
}

/// The model that is learned from, if it is another one: it is there from the beginning.
fn other_teacher(model: &ModelSizes) -> Share {
    let bytes = if model.has_other_teacher() { model.teacher } else { 0 };
    share("teacher", bytes)
}

/// The model as it came, or as its clustering began, if that is what is learned from.
fn teacher(settings: &FinetuneSettings, model: &ModelSizes) -> Share {
    let bytes = match settings.taught_from() {
        None => 0,
        Some(_) if model.has_other_teacher() => 0,
        Some(0) => model.teacher,
        // trained numbers are not of 16 bits
        Some(_) => model.parameters,
    };
    share("teacher", bytes)
}

/// What comes to it within a step. Either backward begins, everything is saved and few gradients are there; or it ends, and all gradients are there that
/// are kept till then.
fn training(settings: &FinetuneSettings, model: &ModelSizes, place: Place) -> Vec<Share> {
    let (tokens, of_layer) = (tokens(settings), saved_by_layer(settings, model));
    let work = model.work_of_layer(settings.recompute, tokens, settings.sequence as u64);
    let saved = saved(settings, model);
    // what was spilled or is on the host comes back a layer at a time
    let limited = |budget: u64| saved.min(budget.saturating_add(of_layer));
    let in_memory = match place {
        Place::Host { .. } => settings.store.spill_budget().map_or(saved, |budget| limited(budget.0)),
        Place::Device { free } => limited(on_device(settings, model, free)),
    };
    let first_gradients = match settings.accumulate {
        0 | 1 => model.head,
        _ => model.parameters,
    };
    let teacher_layer = match settings.taught_from() {
        None => 0,
        Some(0) => model.teacher_layer.saturating_add(model.forward_of_teacher(tokens)),
        Some(_) => model.forward_of_layer(tokens),
    };
    let ahead = match place {
        Place::Host { .. } => model.ahead(tokens, models(settings)),
        Place::Device { .. } => 0,
    };
    let logits = model.loss(tokens, models(settings));
    let loss = match settings.accumulate {
        // beside the logits it is the only gradient, and then it is added to another
        0 | 1 => logits.max(ahead),
        _ => logits.saturating_add(ahead),
    };
    let forward = loss.max(teacher_layer);
    let begins = [in_memory, first_gradients, work.max(forward)];
    let ends = [of_layer, model.gradients, work];
    let sum = |shares: [u64; 3]| shares.into_iter().fold(0, u64::saturating_add);
    let [saved, gradients, work] = match sum(begins) > sum(ends) {
        true => begins,
        false => ends,
    };
    let text = match place {
        Place::Host { .. } => text_of_step(settings),
        // a pass at a time
        Place::Device { .. } => 12u64.saturating_mul(tokens),
    };
    vec![
        share(GRADIENTS, gradients),
        share(SAVED, saved),
        share("the op that runs", work),
        share(TEXT_OF_A_STEP, text),
    ]
}

/// Tokens of a forward pass.
fn tokens(settings: &FinetuneSettings) -> u64 {
    (settings.batch as u64).saturating_mul(settings.sequence as u64)
}

/// Tokens, those to predict, and their weights, of all passes of a step.
fn text_of_step(settings: &FinetuneSettings) -> u64 {
    12u64
        .saturating_mul(tokens(settings))
        .saturating_mul(settings.accumulate as u64)
}

/// Models that predict.
fn models(settings: &FinetuneSettings) -> u64 {
    match settings.objective {
        Objective::Text => 1,
        Objective::Teacher(_) => 2,
    }
}

/// What a layer saves for backward.
fn saved_by_layer(settings: &FinetuneSettings, model: &ModelSizes) -> u64 {
    let tokens = tokens(settings);
    let hidden_states = match settings.objective {
        Objective::Teacher(lesson) if !lesson.hidden.is_zero() => model.hidden(tokens),
        _ => 0,
    };
    model
        .saved_by_layer(settings.recompute, tokens, settings.sequence as u64)
        .saturating_add(hidden_states)
}

/// What a forward pass saves for backward: behind the layers the last norm's input, and the teacher's hidden states.
fn saved(settings: &FinetuneSettings, model: &ModelSizes) -> u64 {
    let behind = model.hidden(tokens(settings)).saturating_mul(models(settings));
    model
        .layers
        .saturating_mul(saved_by_layer(settings, model))
        .saturating_add(behind)
}

/// What of it stays in the memory of a device of which so many bytes are free before the run.
fn on_device(settings: &FinetuneSettings, model: &ModelSizes, free: u64) -> u64 {
    let most = match settings.device_share {
        DeviceShare::Nothing => 0,
        DeviceShare::AtMost(bytes) => bytes.0,
        // half of what is left beside all that stays
        DeviceShare::WhatFits => {
            let teacher = teacher(settings, model).bytes + other_teacher(model).bytes;
            let stays = model.parameters + model.gradients + model.moments + teacher;
            what_fits(free, stays)
        }
    };
    saved(settings, model).min(most)
}

#[cfg(test)]
mod tests {
    use edkm_cluster::Bits;

    use super::*;
    use crate::bench::configurations::configuration;
    use crate::run::{ClusterSettings, DataSource};
    use crate::trainer::Update;
    use dfdx_edkm::optim::MomentFormat;

    /// A run without a teacher, 512 tokens a step.
    fn settings(moments: MomentFormat, device_share: DeviceShare) -> FinetuneSettings {
        let clustering = ClusterSettings::new(Bits::new(3).unwrap(), 100);
        FinetuneSettings {
            evaluation_tokens: 1000,
            objective: Objective::Text,
            moments,
            sequence: 512,
            batch: 1,
            device_share,
            ..FinetuneSettings::new("model", DataSource::HeldOut, Some(clustering), 100, "out")
        }
    }

    /// GB of training on a GPU with so many GB free.
    fn on_gpu(name: &str, settings: &FinetuneSettings, free: f64) -> f64 {
        let model = ModelSizes::new(
            &configuration(name).unwrap(),
            settings.clustering.as_ref(),
            settings.moments,
            settings.update,
            |_| true,
        );
        let free = (free * 1e9) as u64;
        let stages = stages(settings, &model, &TextSizes::default(), Place::Device { free });
        let training = stages.iter().find(|stage| stage.stage == "training").unwrap();
        let FinetuneSettings { moments, update, .. } = settings;
        println!("{name} {moments:?} {update:?} {}", training.bytes);
        training.bytes as f64 * 1e-9
    }

    /// Beside what `bench step --device cuda` showed on an H200.
    #[test]
    fn the_memory_of_a_gpu_is_what_was_measured() {
        for (name, measured) in [("llama-7b", 114.3), ("tinyllama-1.1b", 19.3)] {
            let estimated = on_gpu(name, &settings(MomentFormat::F32, DeviceShare::WhatFits), 141.0);
            assert!(
                (estimated / measured - 1.0).abs() < 0.03,
                "{name}: {estimated} GB of {measured}"
            );
        }
    }

    /// Of more logits than are held at once the head's gradient is found before backward begins: beside those of earlier passes that is more.
    #[test]
    fn a_gradient_that_is_found_ahead_takes_memory_on_the_host() {
        let training = |sequence, place| {
            let settings = FinetuneSettings {
                sequence,
                accumulate: 2,
                ..settings(MomentFormat::F32, DeviceShare::WhatFits)
            };
            let model = ModelSizes::new(
                &configuration("smollm-135m").unwrap(),
                settings.clustering.as_ref(),
                settings.moments,
                settings.update,
                |_| true,
            );
            let shares = super::training(&settings, &model, place);
            let of_op = shares
                .iter()
                .find(|share| share.what == "the op that runs")
                .unwrap()
                .bytes;
            (of_op, model.head)
        };
        let (host, device) = (Place::Host { held: 0 }, Place::Device { free: 1 << 40 });
        // 682 tokens are held at once
        let (few, head) = training(682, host);
        let (many, _) = training(1364, host);
        assert_eq!(few, training(682, device).0);
        // in two chunks of as many
        assert!(many > few + head, "{many} of {few} and {head}");
        assert!(training(1364, device).0 < few + head);
    }

    #[test]
    fn a_gpu_of_80_gb_holds_7b_parameters_with_moments_of_8_bits() {
        let of = |moments| settings(moments, DeviceShare::WhatFits);
        assert!(on_gpu("llama-7b", &of(MomentFormat::F32), 84.0) > 100.0);
        let eight_bits = of(MomentFormat::EightBit);
        assert!(on_gpu("llama-7b", &eight_bits, 84.0) < 79.0);
        let taught = FinetuneSettings {
            objective: Objective::BEST,
            ..eight_bits
        };
        assert!(on_gpu("llama-7b", &taught, 84.0) > 84.0);
        let in_backward = FinetuneSettings {
            update: Update::InBackward,
            ..taught
        };
        assert!(on_gpu("llama-7b", &in_backward, 84.0) < 79.0);
    }
}
