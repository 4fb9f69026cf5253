//! Compression of a run's model to its palettes without training, for comparison.

use dfdx_edkm::EdkmDevice;
use edkm_llama::model::DynamicLlama;

use super::plan::plan;
use super::{Baseline, ClusterSettings, Observer, PlannedLayer};
use crate::compress::{compress, with_palettes, Method};
use crate::evaluate::Perplexity;
use crate::TrainError;

/// Measures a model; the function is told the share that is done.
type Evaluate<'a, D> = dyn Fn(&DynamicLlama<D>, &mut dyn FnMut(f64)) -> Result<Perplexity, TrainError> + 'a;

/// The perplexity of `model`, which has its clusterings, by each method that its palettes allow. Those `known` are not measured again.
///
/// # Errors
/// A method or an evaluation that failed.
pub(super) fn measure<D: EdkmDevice>(
    model: &mut DynamicLlama<D>,
    clustering: &ClusterSettings,
    known: &[f64],
    evaluate: &Evaluate<'_, D>,
    observer: &mut impl Observer,
) -> Result<Vec<Baseline>, TrainError> {
    let is_vector = |layer: &PlannedLayer| layer.palette.as_ref().is_some_and(|palette| palette.vector > 1);
    // rounding has numbers for levels, not vectors
    let scalars = !plan(&model.config, clustering)?.iter().any(is_vector);
    let rounding = scalars.then_some((Method::RoundToNearest, "rounding to nearest"));
    let methods = rounding.into_iter().chain([(Method::KMeans, "k-means")]);
    let mut baselines = Vec::new();
    for (index, (method, name)) in methods.enumerate() {
        if let Some(&known) = known.get(index) {
            baselines.push(Baseline::new(method, known));
            continue;
        }
        let dtype = |name: &str| clustering.palette_dtype_of(name);
        let palettes = compress(model, method, None, &dtype, &mut |_| Ok(()))?;
        let measured = evaluate(&with_palettes(model, &palettes)?, &mut |share| observer.progress(share))?;
        observer.result(&format!("perplexity {:.4} by {name}", measured.perplexity));
        baselines.push(Baseline::new(method, measured.perplexity));
    }
    Ok(baselines)
}
