//! From trained weights to palettes: which parameters are clustered, and what they become.

use dfdx::prelude::*;
use dfdx_edkm::{visit_clustered, ChannelScale, Clustering, EdkmDevice, PalettizeError};
use edkm_cluster::{MatrixShape, Spec};
use edkm_palette::{PaletteDType, PalettizedMatrix};

use super::{Llama, Projection};
use crate::names::{Kind, Parameter};
use crate::LlamaError;

/// Which parameters are clustered, and how.
pub trait ClusterPlan {
    /// The settings for a parameter; `None` leaves it as it is. Asked for matrices alone.
    fn spec(&self, parameter: &Parameter) -> Option<Spec>;

    /// Whether the rows of a parameter that is clustered are brought to one spread first.
    fn channel_scale(&self, _: &Parameter) -> ChannelScale {
        ChannelScale::None
    }
}

impl<F: Fn(&Parameter) -> Option<Spec>> ClusterPlan for F {
    fn spec(&self, parameter: &Parameter) -> Option<Spec> {
        self(parameter)
    }
}

/// A parameter as the compressed model holds it.
#[derive(Debug, Clone)]
pub struct PalettizedParameter {
    /// Its name in the checkpoint.
    pub name: String,
    /// Palettes and packed indices.
    pub matrix: PalettizedMatrix,
}

impl<V: Dim, H: Dim, Q: Dim, K: Dim, F: Dim, D: EdkmDevice> Llama<V, H, Q, K, F, D> {
    /// Clusters the parameters that `plan` names, each with palettes of its own, from now on. Palettes reached before are forgotten.
    pub fn set_clustering(&mut self, plan: &impl ClusterPlan) {
        let config = self.config.clone();
        let make = |kind: Kind, layer: usize| {
            let parameter = kind.parameter(&config, layer)?;
            let clustering = Clustering::new(plan.spec(&parameter)?);
            clustering.set_name(&parameter.name);
            Some(clustering.with_channel_scale(plan.channel_scale(&parameter)))
        };
        fn set<I: Dim, O: Dim, D: EdkmDevice>(projection: &mut Projection<I, O, D>, clustering: Option<Clustering>) {
            projection.clustering = clustering;
        }
        self.embed_clustering = make(Kind::EmbedTokens, 0);
        for (index, layer) in self.layers.iter_mut().enumerate() {
            set(&mut layer.query, make(Kind::Query, index));
            set(&mut layer.key, make(Kind::Key, index));
            set(&mut layer.value, make(Kind::Value, index));
            set(&mut layer.output, make(Kind::Output, index));
            set(&mut layer.gate, make(Kind::Gate, index));
            set(&mut layer.up, make(Kind::Up, index));
            set(&mut layer.down, make(Kind::Down, index));
        }
        if let Some(head) = &mut self.head {
            set(head, make(Kind::Head, 0));
        }
    }

    /// The clustered parameters, each weight at its nearest centroid (DKM, arXiv 2108.12659, section 3.2), packed.
    ///
    /// # Errors
    /// A weight that is not finite; a centroid that `dtype` cannot hold.
    pub fn palettize(&mut self, dtype: PaletteDType) -> Result<Vec<PalettizedParameter>, LlamaError> {
        self.palettize_by_name(&|_| dtype)
    }

    /// The same with a palette type for each parameter by name.
    ///
    /// # Errors
    /// As [`Self::palettize`].
    pub fn palettize_by_name(
        &mut self,
        dtype: &dyn Fn(&str) -> PaletteDType,
    ) -> Result<Vec<PalettizedParameter>, LlamaError> {
        let mut found = Vec::new();
        visit_clustered(self, |parameter| {
            let (name, shape) = (parameter.name, parameter.shape);
            let matrix = palettize(name, &parameter.weight(), shape, parameter.clustering, dtype(name))?;
            found.push(PalettizedParameter {
                name: name.to_owned(),
                matrix,
            });
            Ok::<_, LlamaError>(())
        })?;
        Ok(found)
    }
}

/// Packs one weight `[rows, cols]` with the palettes that its clustering has reached.
///
/// # Errors
/// A weight that is not finite; a centroid that `dtype` cannot hold. Both name the parameter.
pub fn palettize(
    name: &str,
    weight: &[f32],
    shape: MatrixShape,
    clustering: &Clustering,
    dtype: PaletteDType,
) -> Result<PalettizedMatrix, LlamaError> {
    clustering
        .palettize(weight, shape, dtype)
        .map_err(|error| LlamaError::of_palettes(name, error))
}

impl LlamaError {
    /// Why the parameter `name` has no palettes.
    pub fn of_palettes(name: &str, error: PalettizeError) -> Self {
        let name = name.to_owned();
        match error {
            PalettizeError::Cluster(source) => Self::Cluster { name, source },
            PalettizeError::Palette(source) => Self::Palettize { name, source },
        }
    }
}
