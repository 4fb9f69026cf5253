//! Root-mean-square normalisation as a module.

use dfdx::nn::modules::{ModuleVisitor, NonMutableModule, TensorCollection, TensorOptions};
use dfdx::nn::{BuildModule, BuildOnDevice};
use dfdx::prelude::*;

use super::carried::Carried;
use super::{as_matrix, in_order_as};
use crate::ops::rms_norm::rms_norm;
use crate::{EdkmDevice, ParameterKind, ParameterVisitor, Parameters, SaveForBackward};

/// What `build_module` takes.
pub(super) mod builder {
    /// Rows of `M`; see [`super::RmsNorm`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct RmsNorm<const M: usize>;
}

/// x / sqrt(mean(x^2) + eps) * w over the last axis (arXiv 1910.07467).
#[derive(Debug, Clone)]
pub struct RmsNorm<M: Dim, E: Dtype, D: Storage<E>> {
    /// The scale of each feature; ones at first.
    pub weight: Tensor<(M,), E, D>,
    /// Added to the mean of squares; 1e-5 at first. Not in a safetensors file.
    pub eps: f64,
}

impl<const M: usize, D: Device<f32>> BuildOnDevice<D, f32> for builder::RmsNorm<M> {
    type Built = RmsNorm<Const<M>, f32, D>;
    fn try_build_on_device(device: &D) -> Result<Self::Built, D::Err> {
        Self::Built::try_build(device)
    }
}

impl<M: ConstDim, E: Dtype, D: Device<E>> TensorCollection<E, D> for RmsNorm<M, E, D> {
    type To<E2: Dtype, D2: Device<E2>> = RmsNorm<M, E2, D2>;

    fn iter_tensors<V: ModuleVisitor<Self, E, D>>(visitor: &mut V) -> Result<Option<Self::To<V::E2, V::D2>>, V::Err> {
        let carried = Carried::default();
        visitor.visit_fields(
            Self::tensor(
                "weight",
                |s| {
                    carried.note(&s.eps);
                    &s.weight
                },
                |s| &mut s.weight,
                TensorOptions::reset_to_ones(),
            ),
            |weight| RmsNorm {
                weight,
                eps: carried.take().unwrap_or(1e-5),
            },
        )
    }
}

impl<M: Dim, E: Dtype, D: Device<E>> NonMutableModule for RmsNorm<M, E, D> {}

impl<S: Shape, M: Dim, D: EdkmDevice, T: SaveForBackward<D>> Module<Tensor<S, f32, D, T>> for RmsNorm<M, f32, D> {
    type Output = Tensor<S, f32, D, T>;
    type Error = D::Err;
    fn try_forward(&self, x: Tensor<S, f32, D, T>) -> Result<Self::Output, D::Err> {
        let shape = *x.shape();
        let (x, tape) = x.split_tape();
        let (weight, tape) = in_order_as(&self.weight, (self.weight.shape().0.size(),), tape)?;
        rms_norm(as_matrix(x.put_tape(tape))?, &weight, self.eps as f32)?.try_reshape_like(&shape)
    }
}

impl<M: Dim, D: EdkmDevice> Parameters<D> for RmsNorm<M, f32, D> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        visitor.visit(&format!("{prefix}weight"), ParameterKind::Vector, &mut self.weight)
    }
}
