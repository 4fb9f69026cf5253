//! A clustered linear layer with a bias.

use dfdx::nn::modules::{ModuleVisitor, NonMutableModule, TensorCollection, TensorOptions};
use dfdx::nn::{BuildModule, BuildOnDevice};
use dfdx::prelude::*;
use num_traits::Float;
use rand_distr::uniform::SampleUniform;
use rand_distr::Uniform;

use super::carried::Carried;
use super::unbiased_clustered_linear::uniform_bound;
use super::{as_matrix, in_order_as, parameter_matrix, RowsOf};
use crate::ops::linear::linear;
use crate::{Clustering, EdkmDevice, ParameterKind, ParameterVisitor, Parameters, SaveForBackward};

/// What `build_module` takes.
pub(super) mod builder {
    /// `I` inputs, `O` outputs, 3 bits, one palette a tensor, of `f32`; see [`super::ClusteredLinear`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ClusteredLinear<const I: usize, const O: usize>;
}

/// y = x W~^T + b: dfdx's `Linear` with a weight that is clustered while it is trained.
///
/// The parameters are named as dfdx's `Linear` names them, so its safetensors files load here.
///
/// Takes `[I]`, `[B, I]`, `[B, S, I]` and `[B, G, S, I]`. Dimensions are const (checked by the compiler) or `usize`.
#[derive(Debug, Clone)]
pub struct ClusteredLinear<I: Dim, O: Dim, E: Dtype, D: Storage<E>> {
    /// The weight that is trained, `[outputs, inputs]`.
    pub weight: Tensor<(O, I), E, D>,
    /// The bias, `[outputs]`, which is not clustered.
    pub bias: Tensor<(O,), E, D>,
    /// How the weight is clustered, and the palette it has reached. Not in a safetensors file: see [`Clustering`].
    pub clustering: Clustering,
}

impl<const I: usize, const O: usize, D: Device<f32>> BuildOnDevice<D, f32> for builder::ClusteredLinear<I, O> {
    type Built = ClusteredLinear<Const<I>, Const<O>, f32, D>;
    fn try_build_on_device(device: &D) -> Result<Self::Built, D::Err> {
        Self::Built::try_build(device)
    }
}

impl<I: ConstDim, O: ConstDim, E: Dtype + Float + SampleUniform, D: Device<E>> TensorCollection<E, D>
    for ClusteredLinear<I, O, E, D>
{
    type To<E2: Dtype, D2: Device<E2>> = ClusteredLinear<I, O, E2, D2>;

    fn iter_tensors<V: ModuleVisitor<Self, E, D>>(visitor: &mut V) -> Result<Option<Self::To<V::E2, V::D2>>, V::Err> {
        let carried = Carried::default();
        visitor.visit_fields(
            (
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
                Self::tensor(
                    "bias",
                    |s| &s.bias,
                    |s| &mut s.bias,
                    TensorOptions::reset_with(|t| {
                        let bound = uniform_bound::<E>(I::SIZE);
                        t.try_fill_with_distr(Uniform::new(-bound, bound))
                    }),
                ),
            ),
            |(weight, bias)| ClusteredLinear {
                weight,
                bias,
                clustering: carried.take().unwrap_or_default(),
            },
        )
    }
}

impl<I: Dim, O: Dim, E: Dtype, D: Device<E>> NonMutableModule for ClusteredLinear<I, O, E, D> {}

impl<S: RowsOf<I>, I: Dim, O: Dim, D: EdkmDevice, T: SaveForBackward<D>> Module<Tensor<S, f32, D, T>>
    for ClusteredLinear<I, O, f32, D>
{
    type Output = Tensor<S::With<O>, f32, D, T>;
    type Error = D::Err;
    fn try_forward(&self, x: Tensor<S, f32, D, T>) -> Result<Self::Output, D::Err> {
        let y_shape = x.shape().with(self.weight.shape().0);
        let (x, tape) = x.split_tape();
        let (weight, tape) = parameter_matrix(&self.weight, tape)?;
        // of its own length, which the op compares
        let (bias, tape) = in_order_as(&self.bias, (self.bias.shape().0.size(),), tape)?;
        linear(
            as_matrix(x.put_tape(tape))?,
            &weight,
            Some(&bias),
            Some(&self.clustering),
        )?
        .try_reshape_like(&y_shape)
    }
}

impl<I: Dim, O: Dim, D: EdkmDevice> Parameters<D> for ClusteredLinear<I, O, f32, D> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        let kind = ParameterKind::Linear {
            clustering: Some(&self.clustering),
        };
        visitor.visit(&format!("{prefix}weight"), kind, &mut self.weight)?;
        visitor.visit(&format!("{prefix}bias"), ParameterKind::Vector, &mut self.bias)
    }
}
