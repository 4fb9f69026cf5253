//! The norms of queries and keys by head, which Qwen 3 has.

use dfdx::prelude::*;
use dfdx_edkm::nn::RmsNorm;
use dfdx_edkm::ops::Matrix;
use dfdx_edkm::{EdkmDevice, EdkmError, ParameterVisitor, Parameters, SaveForBackward};

/// An RMSNorm of each head of queries and one of each head of keys, before they are turned (arXiv 2505.09388, section 2; arXiv 2302.05442, section 2).
#[derive(Debug, Clone)]
pub struct HeadNorms<D: EdkmDevice> {
    /// Of queries, `[head_dim]`.
    pub query: RmsNorm<usize, f32, D>,
    /// Of keys, `[head_dim]`.
    pub key: RmsNorm<usize, f32, D>,
}

/// `x [tokens, heads * head_dim]` with each head normalised by a norm of `[head_dim]`.
///
/// # Errors
/// A width that is no whole number of heads; a store that fails.
pub(super) fn by_head<D: EdkmDevice, T: SaveForBackward<D>>(
    norm: &RmsNorm<usize, f32, D>,
    x: Matrix<D, T>,
) -> Result<Matrix<D, T>, D::Err> {
    let shape = *x.shape();
    let dim = norm.weight.shape().0;
    if dim == 0 || !shape.1.is_multiple_of(dim) {
        let (_, tape) = x.split_tape();
        return Err(tape.fail(EdkmError::Shape {
            op: "norms of heads",
            expected: format!("a multiple of the norm's {dim} numbers a token"),
            got: shape.1.to_string(),
        }));
    }
    let heads = (shape.0 * shape.1 / dim, dim);
    norm.try_forward(x.try_reshape_like(&heads)?)?.try_reshape_like(&shape)
}

impl<D: EdkmDevice> Parameters<D> for HeadNorms<D> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        self.query.visit_parameters(&format!("{prefix}q_norm."), visitor)?;
        self.key.visit_parameters(&format!("{prefix}k_norm."), visitor)
    }
}
