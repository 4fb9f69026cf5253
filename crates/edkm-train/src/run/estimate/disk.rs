//! Disk of a run: its checkpoints, and the folder that it writes.

use edkm_cluster::Bits;
use edkm_llama::checkpoint::{Checkpoint, COMPANIONS};
use edkm_llama::config::LlamaConfig;
use edkm_llama::names::parameters;

use super::limits::bytes_in;
use super::model_sizes;
use super::sizes::ModelSizes;
use super::{share, sum, Share};
use crate::report::{MOST_CENTROIDS, TALL_CENTROIDS};
use crate::run::checkpoint::{run_folder, Start};
use crate::run::float_dtype::float_dtype;
use crate::run::{plan, FinetuneSettings, KeptModel, PlannedLayer};
use crate::TrainError;

/// Bytes of a line of metrics.jsonl.
const METRICS_LINE: u64 = 280;
/// Bytes of report.html but for its curves and matrices, of log.txt and of result.json.
const REPORT: u64 = 16 << 10;
/// Bytes of the histogram of a matrix in report.html, and of a centroid in it, which is a line where there are few and a tick where there are many.
const REPORT_MATRIX: u64 = 1150;
const REPORT_LINE: u64 = 120;
const REPORT_TICK: u64 = 11;
/// Bytes of a step in the curves of report.html, of which there are at most so many points.
const REPORT_STEP: u64 = 40;
const REPORT_POINTS: u64 = 2000;
/// Bytes that the header of a safetensors file has for a tensor.
const HEADER_ENTRY: u64 = 110;

/// What the run will have on disk when it has most: when a checkpoint is whole and the oldest is not removed yet, or when OUT is. A run that
/// makes no more steps has what is there, and OUT.
pub(super) fn shares(
    settings: &FinetuneSettings,
    config: &LlamaConfig,
    checkpoint: &Checkpoint,
) -> Result<Vec<Share>, TrainError> {
    let model = model_sizes(settings, config, checkpoint);
    let metrics = METRICS_LINE.saturating_mul(settings.steps);
    let weights = weights(settings, config, checkpoint)?;
    let mut out = vec![share("OUT: weights", weights)];
    let beside = COMPANIONS.iter().map(|name| settings.model_dir.join(name));
    let tokenizer = beside
        .filter_map(|path| std::fs::metadata(path).ok())
        .map(|file| file.len());
    let tokenizer = tokenizer.sum();
    out.push(share("OUT: tokenizer", tokenizer));
    let report = REPORT + figures(settings, config)? + REPORT_STEP * settings.steps.min(REPORT_POINTS);
    out.push(share("OUT: metrics and report", metrics.saturating_add(report)));
    if settings.checkpoints.start == Start::Finish {
        out.push(share("OUT.run", bytes_in(&run_folder(&settings.out))));
        return Ok(out);
    }
    let checkpoints = |at_most: u64| {
        let every = settings.checkpoints.every?;
        let written = settings.steps.div_ceil(every.get());
        let bytes = at_most.min(written).saturating_mul(self::checkpoint(&model));
        Some(share("OUT.run: checkpoints", bytes))
    };
    let kept = settings.checkpoints.keep.max(1) as u64;
    let teacher = settings.taught_from().filter(|&from| from > 0);
    let teacher = teacher.map(|_| share("OUT.run: teacher", model.parameters));
    let beside = [
        share("OUT.run: metrics", metrics),
        share("OUT.run: tokenizer", tokenizer),
    ];
    let beside: Vec<Share> = beside.into_iter().chain(teacher).collect();
    let best = |models: u64| {
        let bytes = models.saturating_mul(weights);
        (settings.kept_model == KeptModel::Best).then(|| share("OUT.run: best model", bytes))
    };
    // while a better one is written the one before is there
    let training = checkpoints(kept.saturating_add(1)).into_iter().chain(best(2));
    let training: Vec<Share> = training.chain(beside.iter().cloned()).collect();
    out.extend(checkpoints(kept));
    out.extend(best(1));
    out.extend(beside);
    Ok(match sum(&training) > sum(&out) {
        true => training,
        false => out,
    })
}

/// The histograms in report.html: every matrix has one.
fn figures(settings: &FinetuneSettings, config: &LlamaConfig) -> Result<u64, TrainError> {
    let matrices = parameters(config)
        .filter(|parameter| parameter.shape.len() == 2)
        .count() as u64;
    let Some(clustering) = &settings.clustering else {
        return Ok(REPORT_MATRIX * matrices);
    };
    let centroids = |layer: &PlannedLayer| {
        let palette = layer.palette.as_ref()?;
        let palettes = match palette.row_scales {
            // no two rows have the same values
            true => layer.shape[0],
            false => palette.group.map_or(1, |rows| layer.shape[0].div_ceil(rows)),
        };
        match (palettes << palette.bits) * palette.vector {
            count if count <= TALL_CENTROIDS => Some(REPORT_LINE * count as u64),
            count if count <= MOST_CENTROIDS => Some(REPORT_TICK * count as u64),
            _ => None,
        }
    };
    // of a budget the bits of each layer are not known yet: as many as it pays for
    let mut clustering = clustering.clone();
    if let Some(budget) = clustering.bits_budget {
        let bits = budget.ceil().clamp(1.0, 8.0) as u8;
        clustering.bits = Bits::new(bits).unwrap_or(clustering.bits);
    }
    let all: u64 = plan(config, &clustering)?.iter().filter_map(centroids).sum();
    Ok(REPORT_MATRIX * matrices + all)
}

/// A checkpoint: parameters and two moments each, and the palettes reached, which are small.
pub(super) fn checkpoint(model: &ModelSizes) -> u64 {
    model.parameters + model.moments
}

/// The model's file in OUT.
fn weights(settings: &FinetuneSettings, config: &LlamaConfig, checkpoint: &Checkpoint) -> Result<u64, TrainError> {
    let plain = float_dtype(checkpoint).size() as u64;
    let elements = |shape: &[usize]| shape.iter().map(|&n| n as u64).product::<u64>();
    let Some(clustering) = &settings.clustering else {
        return Ok(parameters(config)
            .map(|parameter| plain * elements(&parameter.shape) + HEADER_ENTRY)
            .sum());
    };
    let of_layer = |layer: &PlannedLayer| match (&layer.palette, clustering.bits_budget) {
        (None, _) => plain * elements(&layer.shape) + HEADER_ENTRY,
        (Some(_), Some(budget)) => (budget / 8.0 * elements(&layer.shape) as f64) as u64 + 4 * HEADER_ENTRY,
        // indices and palette, and what the metadata say
        (Some(palette), None) => palette.bytes + 4 * HEADER_ENTRY,
    };
    Ok(plan(config, clustering)?.iter().map(of_layer).sum())
}
