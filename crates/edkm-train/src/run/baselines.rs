//! Compression of a run's model to its palettes without training, for comparison.

use dfdx_edkm::EdkmDevice;
use edkm_llama::model::DynamicLlama;

use super::plan::plan;
use super::{Baseline, ClusterSettings, Observer, PlannedLayer};
use crate::compress::{compress, with_palettes, Method};
use crate::data::TokenStream;
use crate::evaluate::{perplexity, perplexity_in_words};
use crate::TrainError;

/// The perplexity of `model`, which has its clusterings, on windows of a text, by each method that its palettes allow. Those `known` are not measured again.
///
/// # Errors
/// A method or a measurement that failed, or was asked to stop.
pub(super) fn measure<D: EdkmDevice>(
    model: &mut DynamicLlama<D>,
    clustering: &ClusterSettings,
    known: &[f64],
    validation: &TokenStream,
    sequence: usize,
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
        let palettes = compress(model, method, None, &dtype, &mut |_| observer.go_on())?;
        let compressed = with_palettes(model, &palettes)?;
        let measured = perplexity(&compressed, validation, sequence, &mut |share| observer.advance(share))?;
        let words = perplexity_in_words(measured.perplexity);
        observer.result(&format!("perplexity {words} by {name}"));
        baselines.push(Baseline::new(method, measured.perplexity));
    }
    Ok(baselines)
}
