//! What the clusterings of a step keep for backward, and what plain DKM would.

use dfdx::prelude::*;
use dfdx_edkm::{EdkmDevice, ParameterKind, ParameterVisitor, Parameters};
use edkm_llama::model::DynamicLlama;

/// Bytes kept from forward to backward for the clusterings of one step.
#[derive(Clone, Copy, Default)]
pub(super) struct ClusteringBytes {
    pub(super) here: u64,
    /// DKM as published: an attention map of weights x clusters in each repetition, 4 bytes an entry.
    pub(super) plain_dkm: u64,
}

impl<D: EdkmDevice> ParameterVisitor<D> for ClusteringBytes {
    type Error = std::convert::Infallible;
    fn visit<S: Shape>(
        &mut self,
        _: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), Self::Error> {
        if let Some(clustering) = kind.clustering() {
            let spec = clustering.spec();
            let map = parameter.shape().num_elements() as u64 / spec.dim() as u64 * spec.clusters() as u64;
            self.plain_dkm += 4 * map * spec.iterations as u64;
            self.here += clustering.saved_bytes() as u64;
        }
        Ok(())
    }
}

pub(super) fn clustering_bytes<D: EdkmDevice>(model: &mut DynamicLlama<D>) -> ClusteringBytes {
    let mut bytes = ClusteringBytes::default();
    match model.visit_parameters("", &mut bytes) {
        Ok(()) => bytes,
        Err(never) => match never {},
    }
}
