//! A clustered linear layer without a bias.

use dfdx::nn::modules::{ModuleVisitor, NonMutableModule, TensorCollection, TensorOptions};
use dfdx::nn::{BuildModule, BuildOnDevice};
use dfdx::prelude::*;
use num_traits::Float;
use rand_distr::uniform::SampleUniform;
use rand_distr::Uniform;

use super::carried::Carried;
use super::{as_matrix, parameter_matrix, RowsOf};
use crate::ops::linear::linear;
use crate::{Clustering, EdkmDevice, ParameterKind, ParameterVisitor, Parameters, SaveForBackward};

/// What `build_module` takes.
pub(super) mod builder {
    /// `I` inputs, `O` outputs, 3 bits, one palette a tensor, of `f32`; see [`super::UnbiasedClusteredLinear`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct UnbiasedClusteredLinear<const I: usize, const O: usize>;
}

/// y = x W~^T: dfdx's `UnbiasedLinear` with a weight that is clustered while it is trained.
///
/// Takes `[I]`, `[B, I]`, `[B, S, I]` and `[B, G, S, I]`. Dimensions are const (checked by the compiler) or `usize`.
#[derive(Debug, Clone)]
pub struct UnbiasedClusteredLinear<I: Dim, O: Dim, E: Dtype, D: Storage<E>> {
    /// The weight that is trained, `[outputs, inputs]`.
    pub weight: Tensor<(O, I), E, D>,
    /// How it is clustered, and the palette it has reached. Not in a safetensors file: see [`Clustering`].
    pub clustering: Clustering,
}

impl<const I: usize, const O: usize, D: Device<f32>> BuildOnDevice<D, f32> for builder::UnbiasedClusteredLinear<I, O> {
    type Built = UnbiasedClusteredLinear<Const<I>, Const<O>, f32, D>;
    fn try_build_on_device(device: &D) -> Result<Self::Built, D::Err> {
        Self::Built::try_build(device)
    }
}

impl<I: ConstDim, O: ConstDim, E: Dtype + Float + SampleUniform, D: Device<E>> TensorCollection<E, D>
    for UnbiasedClusteredLinear<I, O, E, D>
{
    type To<E2: Dtype, D2: Device<E2>> = UnbiasedClusteredLinear<I, O, E2, D2>;

    fn iter_tensors<V: ModuleVisitor<Self, E, D>>(visitor: &mut V) -> Result<Option<Self::To<V::E2, V::D2>>, V::Err> {
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
                    let bound = uniform_bound::<E>(I::SIZE);
                    t.try_fill_with_distr(Uniform::new(-bound, bound))
                }),
            ),
            |weight| UnbiasedClusteredLinear {
                weight,
                clustering: carried.take().unwrap_or_default(),
            },
        )
    }
}

/// The bound of the uniform distribution that dfdx's linear layers start from: 1 / sqrt(inputs).
pub(super) fn uniform_bound<E: Dtype + Float>(inputs: usize) -> E {
    let inputs = E::from_usize(inputs).unwrap_or(E::ONE);
    E::ONE / Float::sqrt(inputs)
}

impl<I: Dim, O: Dim, E: Dtype, D: Device<E>> NonMutableModule for UnbiasedClusteredLinear<I, O, E, D> {}

impl<S: RowsOf<I>, I: Dim, O: Dim, D: EdkmDevice, T: SaveForBackward<D>> Module<Tensor<S, f32, D, T>>
    for UnbiasedClusteredLinear<I, O, f32, D>
{
    type Output = Tensor<S::With<O>, f32, D, T>;
    type Error = D::Err;
    fn try_forward(&self, x: Tensor<S, f32, D, T>) -> Result<Self::Output, D::Err> {
        let y_shape = x.shape().with(self.weight.shape().0);
        let (x, tape) = x.split_tape();
        let (weight, tape) = parameter_matrix(&self.weight, tape)?;
        linear(as_matrix(x.put_tape(tape))?, &weight, None, Some(&self.clustering))?.try_reshape_like(&y_shape)
    }
}

impl<I: Dim, O: Dim, D: EdkmDevice> Parameters<D> for UnbiasedClusteredLinear<I, O, f32, D> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        let kind = ParameterKind::Linear {
            clustering: Some(&self.clustering),
        };
        visitor.visit(&format!("{prefix}weight"), kind, &mut self.weight)
    }
}
