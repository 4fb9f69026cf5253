//! A linear layer of the decoder: clustered or not, with a bias or not, as the configuration says at run time.

use dfdx::nn::modules::NonMutableModule;
use dfdx::prelude::*;
use dfdx_edkm::ops::linear::{linear, linear_without_product};
use dfdx_edkm::ops::{as_matrix, Matrix, Vector};
use dfdx_edkm::{Clustering, EdkmDevice, ParameterKind, ParameterVisitor, Parameters, SaveForBackward};

/// y = x W~^T + b.
#[derive(Debug, Clone)]
pub struct Projection<I: Dim, O: Dim, D: EdkmDevice> {
    /// `[outputs, inputs]`
    pub weight: Tensor<(O, I), f32, D>,
    /// `[outputs]`
    pub bias: Option<Tensor<(O,), f32, D>>,
    /// How the weight is clustered; `None` leaves it as it is.
    pub clustering: Option<Clustering>,
}

impl<I: Dim, O: Dim, D: EdkmDevice> Projection<I, O, D> {
    /// The layer on a matrix `[tokens, inputs]`.
    ///
    /// # Errors
    /// Those of [`linear`].
    pub fn apply<T: SaveForBackward<D>>(&self, x: Matrix<D, T>) -> Result<Matrix<D, T>, D::Err> {
        let (weight, bias) = self.parameters()?;
        linear(x, &weight, bias.as_ref(), self.clustering.as_ref())
    }

    /// The same for backward alone, with zeros for an output ([`linear_without_product`]).
    pub(super) fn record<T: SaveForBackward<D>>(&self, x: Matrix<D, T>) -> Result<Matrix<D, T>, D::Err> {
        let (weight, bias) = self.parameters()?;
        linear_without_product(x, &weight, bias.as_ref(), self.clustering.as_ref())
    }

    /// The weight and the bias, as ops take them.
    #[allow(clippy::type_complexity)]
    fn parameters(&self) -> Result<(Matrix<D>, Option<Vector<D>>), D::Err> {
        let bias = match &self.bias {
            None => None,
            Some(bias) => Some(bias.clone().try_reshape_like(&(bias.shape().0.size(),))?),
        };
        Ok((as_matrix(self.weight.clone())?, bias))
    }
}

impl<I: Dim, O: Dim, D: EdkmDevice> NonMutableModule for Projection<I, O, D> {}

impl<B: Dim, I: Dim, O: Dim, D: EdkmDevice, T: SaveForBackward<D>> Module<Tensor<(B, I), f32, D, T>>
    for Projection<I, O, D>
{
    type Output = Tensor<(B, O), f32, D, T>;
    type Error = D::Err;
    fn try_forward(&self, x: Tensor<(B, I), f32, D, T>) -> Result<Self::Output, D::Err> {
        let out = (x.shape().0, self.weight.shape().0);
        self.apply(as_matrix(x)?)?.try_reshape_like(&out)
    }
}

impl<I: Dim, O: Dim, D: EdkmDevice> Parameters<D> for Projection<I, O, D> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        let kind = ParameterKind::Linear {
            clustering: self.clustering.as_ref(),
        };
        visitor.visit(&format!("{prefix}weight"), kind, &mut self.weight)?;
        match &mut self.bias {
            Some(bias) => visitor.visit(&format!("{prefix}bias"), ParameterKind::Vector, bias),
            None => Ok(()),
        }
    }
}
