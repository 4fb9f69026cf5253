//! An embedding whose table is clustered.

use std::sync::Arc;

use dfdx::nn::modules::{ModuleVisitor, NonMutableModule, TensorCollection, TensorOptions};
use dfdx::nn::{BuildModule, BuildOnDevice};
use dfdx::prelude::*;
use num_traits::Float;
use rand_distr::uniform::SampleUniform;
use rand_distr::Uniform;

use super::carried::Carried;
use super::parameter_matrix;
use super::unbiased_clustered_linear::uniform_bound;
use crate::ops::embedding::embedding;
use crate::parameters::numbers;
use crate::{Clustering, EdkmDevice, ParameterKind, ParameterVisitor, Parameters, SaveForBackward};

/// What `build_module` takes.
pub(super) mod builder {
    /// `V` rows of `M`, 3 bits, one palette, of `f32`; see [`super::ClusteredEmbedding`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ClusteredEmbedding<const V: usize, const M: usize>;
}

/// Rows of a clustered table by token id: dfdx's `Embedding` with a table that is clustered while it is trained.
///
/// Takes ids `[S]` and `[B, S]`, with the tape on the ids as dfdx does: `ids.put_tape(tape)`.
#[derive(Debug, Clone)]
pub struct ClusteredEmbedding<V: Dim, M: Dim, E: Dtype, D: Storage<E>> {
    /// The table that is trained, `[vocabulary, features]`.
    pub weight: Tensor<(V, M), E, D>,
    /// How it is clustered, and the palette it has reached. Not in a safetensors file: see [`Clustering`].
    pub clustering: Clustering,
}

impl<const V: usize, const M: usize, D: Device<f32>> BuildOnDevice<D, f32> for builder::ClusteredEmbedding<V, M> {
    type Built = ClusteredEmbedding<Const<V>, Const<M>, f32, D>;
    fn try_build_on_device(device: &D) -> Result<Self::Built, D::Err> {
        Self::Built::try_build(device)
    }
}

impl<V: ConstDim, M: ConstDim, E: Dtype + Float + SampleUniform, D: Device<E>> TensorCollection<E, D>
    for ClusteredEmbedding<V, M, E, D>
{
    type To<E2: Dtype, D2: Device<E2>> = ClusteredEmbedding<V, M, E2, D2>;

    fn iter_tensors<W: ModuleVisitor<Self, E, D>>(visitor: &mut W) -> Result<Option<Self::To<W::E2, W::D2>>, W::Err> {
        let carried = Carried::default();
        visitor.visit_fields(
            Self::tensor(
                "weight",
                |s| {
                    carried.note(&s.clustering);
                    &s.weight
                },
                |s| &mut s.weight,
                TensorOptions::reset_with(|t| {
                    let bound = uniform_bound::<E>(M::SIZE);
                    t.try_fill_with_distr(Uniform::new(-bound, bound))
                }),
            ),
            |weight| ClusteredEmbedding {
                weight,
                clustering: carried.take().unwrap_or_default(),
            },
        )
    }
}

impl<V: Dim, M: Dim, E: Dtype, D: Device<E>> NonMutableModule for ClusteredEmbedding<V, M, E, D> {}

impl<V: Dim, M: Dim, D: EdkmDevice + Storage<usize>> ClusteredEmbedding<V, M, f32, D> {
    fn apply<S: Shape, Out: Shape, T: SaveForBackward<D>>(
        &self,
        ids: Tensor<S, usize, D, T>,
        out: Out,
    ) -> Result<Tensor<Out, f32, D, T>, <D as HasErr>::Err> {
        let (ids, tape) = ids.split_tape();
        let ids = numbers(&ids);
        // an id beyond u32 is beyond any table, and named as such by the op
        let ids: Arc<[u32]> = ids
            .into_iter()
            .map(|id| u32::try_from(id).unwrap_or(u32::MAX))
            .collect();
        let (weight, tape) = parameter_matrix(&self.weight, tape)?;
        embedding(ids, &weight, Some(&self.clustering), tape)?.try_reshape_like(&out)
    }
}

impl<S: Dim, V: Dim, M: Dim, D: EdkmDevice + Storage<usize>, T: SaveForBackward<D>> Module<Tensor<(S,), usize, D, T>>
    for ClusteredEmbedding<V, M, f32, D>
{
    type Output = Tensor<(S, M), f32, D, T>;
    type Error = <D as HasErr>::Err;
    fn try_forward(&self, ids: Tensor<(S,), usize, D, T>) -> Result<Self::Output, Self::Error> {
        let out = (ids.shape().0, self.weight.shape().1);
        self.apply(ids, out)
    }
}

impl<B: Dim, S: Dim, V: Dim, M: Dim, D: EdkmDevice + Storage<usize>, T: SaveForBackward<D>>
    Module<Tensor<(B, S), usize, D, T>> for ClusteredEmbedding<V, M, f32, D>
{
    type Output = Tensor<(B, S, M), f32, D, T>;
    type Error = <D as HasErr>::Err;
    fn try_forward(&self, ids: Tensor<(B, S), usize, D, T>) -> Result<Self::Output, Self::Error> {
        let out = (ids.shape().0, ids.shape().1, self.weight.shape().1);
        self.apply(ids, out)
    }
}

impl<V: Dim, M: Dim, D: EdkmDevice> Parameters<D> for ClusteredEmbedding<V, M, f32, D> {
    fn visit_parameters<W: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut W) -> Result<(), W::Error> {
        let kind = ParameterKind::Embedding {
            clustering: Some(&self.clustering),
        };
        visitor.visit(&format!("{prefix}weight"), kind, &mut self.weight)
    }
}
