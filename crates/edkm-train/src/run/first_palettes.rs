//! The centroids that the first clustered step starts from.

use dfdx_edkm::channel_scale::divided;
use dfdx_edkm::{visit_clustered, ClusteredMatrix, EdkmDevice};
use edkm_cluster::{Initialization, Prepared};
use edkm_llama::model::DynamicLlama;
use edkm_llama::LlamaError;

use super::{Observer, Stage};
use crate::compress::{importance, of_divided, Calibration, Importances};
use crate::TrainError;

/// How the first centroids are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstPalettes {
    /// From the weights alone.
    Weights(Initialization),
    /// The k-means with the squared error of each weight multiplied by its mean squared gradient on training text (SqueezeLLM, arXiv 2306.07629).
    SquaredGradients,
}

impl Default for FirstPalettes {
    fn default() -> Self {
        Self::Weights(Initialization::KMeans)
    }
}

/// Gives the clusterings of `model` their first centroids, unless they find the same themselves.
///
/// # Errors
/// A weight that is not finite, quantiles of vectors; what [`importance`] refuses.
pub(super) fn find<D: EdkmDevice>(
    model: &mut DynamicLlama<D>,
    how: FirstPalettes,
    calibration: &Calibration<'_>,
    observer: &mut impl Observer,
) -> Result<(), TrainError> {
    let find = match how {
        FirstPalettes::Weights(Initialization::KMeans) => return Ok(()),
        FirstPalettes::Weights(initialization) => Find::Alike(initialization),
        FirstPalettes::SquaredGradients => {
            observer.stage(Stage::Compress);
            // a run that is to end does so between its steps, with a checkpoint
            Find::Weighted(importance(model, calibration, &mut |share| {
                observer.progress(share);
                Ok(())
            })?)
        }
    };
    Ok(visit_clustered(model, |parameter| find.start(&parameter))?)
}

enum Find {
    Alike(Initialization),
    Weighted(Importances),
}

impl Find {
    fn start(&self, parameter: &ClusteredMatrix<'_>) -> Result<(), LlamaError> {
        let (name, shape, clustering) = (parameter.name, parameter.shape, parameter.clustering);
        let weight = parameter.weight();
        let row_scales = clustering.channel_scale().of(&weight, shape);
        let weight = divided(&weight, row_scales.as_deref());
        let spec = clustering.spec();
        let centroids = Prepared::new(&weight, shape, &spec).and_then(|prepared| match self {
            Self::Alike(initialization) => prepared.initial_by(*initialization),
            Self::Weighted(importances) => match importances.get(name) {
                Some(importance) => prepared.initial_weighted(&of_divided(importance, shape, row_scales.as_deref())),
                None => prepared.initial(),
            },
        });
        clustering.start_from(centroids.map_err(|source| LlamaError::Cluster {
            name: name.to_owned(),
            source,
        })?);
        Ok(())
    }
}
