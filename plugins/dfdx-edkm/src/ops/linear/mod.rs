//! y = x W^T + b, with W as it is or clustered.

mod clustered_use;
mod cpu_kernel;
#[cfg(feature = "cuda")]
pub(crate) mod cuda_clustered;
#[cfg(feature = "cuda")]
mod cuda_kernel;

pub use clustered_use::ClusteredUse;
pub(crate) use cpu_kernel::{cluster_error, device_error, with_effective, with_gradient};
#[cfg(feature = "cuda")]
pub(crate) use cuda_kernel::fresh as fresh_on_gpu;

use dfdx::prelude::*;
use edkm_cluster::MatrixShape;

use super::{apart, in_order, Matrix, Vector};
use crate::device::{contiguous, DeviceMemory};
use crate::gradients::{gradient_slot, lend_gradient, output_gradient};
use crate::{Clustering, EdkmDevice, EdkmError, SaveAs, SaveForBackward};

/// Sizes of a linear layer: `x [tokens, inputs]`, `W [outputs, inputs]`, `y [tokens, outputs]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearDims {
    /// Rows of x.
    pub tokens: usize,
    /// Columns of x and of W.
    pub inputs: usize,
    /// Rows of W.
    pub outputs: usize,
}

impl LinearDims {
    /// The shape of the weight, for the clustering.
    pub fn weight_shape(&self) -> MatrixShape {
        MatrixShape {
            rows: self.outputs,
            cols: self.inputs,
        }
    }
}

/// The device's part of a linear layer.
pub trait LinearKernel: DeviceMemory {
    /// Clusters the weight of `op`.
    fn cluster(
        &self,
        op: &str,
        weight: Self::View<'_>,
        shape: MatrixShape,
        clustering: &Clustering,
    ) -> Result<ClusteredUse, EdkmError>;

    /// y = x W~^T + b.
    fn linear_forward(
        &self,
        dims: LinearDims,
        x: Self::View<'_>,
        weight: Self::View<'_>,
        clustered: Option<&ClusteredUse>,
        bias: Option<Self::View<'_>>,
    ) -> Result<Self::Fresh, EdkmError>;

    /// dx += dy W~; dW += the gradient through the clustering of dy^T x; db += the column sums of dy.
    fn linear_backward(
        &self,
        dims: LinearDims,
        x: Self::View<'_>,
        weight: Self::View<'_>,
        clustered: Option<&ClusteredUse>,
        grad_out: &<Self as Storage<f32>>::Vec,
        grads: LinearGradients<'_, <Self as Storage<f32>>::Vec>,
    ) -> Result<(), EdkmError>;
}

/// The gradients that a linear layer adds to.
pub struct LinearGradients<'a, V> {
    /// `[tokens, inputs]`
    pub x: &'a mut V,
    /// `[outputs, inputs]`
    pub weight: &'a mut V,
    /// `[outputs]`
    pub bias: Option<&'a mut V>,
}

/// Clusters the weight of an op, if it is to be; a failure is left in the tape's slot under the op's name.
pub(super) fn cluster<D: EdkmDevice, T: SaveForBackward<D>>(
    device: &D,
    dims: LinearDims,
    weight: &Matrix<D>,
    clustering: Option<&Clustering>,
    tape: &T,
    op: &str,
) -> Result<Option<ClusteredUse>, D::Err> {
    let Some(clustering) = clustering else { return Ok(None) };
    device
        .cluster(&clustering.label(op), D::view(weight), dims.weight_shape(), clustering)
        .map(Some)
        .map_err(|error| tape.fail(error))
}

/// y = x W~^T + b with x `[tokens, inputs]`, weight `[outputs, inputs]`, bias `[outputs]`; W~ is the clustered weight, or the weight
/// itself without a `clustering`.
///
/// Saves x. W~ is made for the product, dropped, and made again in backward (one gather); the clustering keeps the trajectory of its
/// centroids alone.
///
/// # Buffers of the weight's size
///
/// Written three times in a step, and one alive at a time, in the same memory for every layer (a scratch buffer kept by the thread):
///
/// 1. forward, W~: the product reads each weight `tokens / block` times and in the order of its own packing, so a lookup in its place would be made as
///    often; written once, it costs one pass of the memory;
/// 2. backward, W~ again for dx: keeping it from forward would keep every layer's W~ at once, the memory that clustering is to save;
/// 3. backward, dL/dW~: the histogram over it must be complete before the first weight's gradient can be told, so it cannot be
///    added to dW as it is computed. It is turned into dL/dW in place and added to dW in the same pass.
///
/// Keys, indices and the attention map are never written out: a weight is rounded again in each pass, which is cheaper than reading a key.
/// [`ChannelScale`](crate::ChannelScale) divides the weight's rows in one more buffer beside each of the three, and beside the third its clustered rows in another.
///
/// # Errors
/// Shapes that do not fit, a weight that is not finite, a store that fails: a device error, with the reason in the tape's
/// [`crate::Failure`].
pub fn linear<D: EdkmDevice, T: SaveForBackward<D>>(
    x: Matrix<D, T>,
    weight: &Matrix<D>,
    bias: Option<&Vector<D>>,
    clustering: Option<&Clustering>,
) -> Result<Matrix<D, T>, D::Err> {
    record(x, weight, bias, clustering, Product::Made)
}

/// The same for a segment that is run again in backward, where nobody reads what its last product makes: the same gradients, saved for as [`linear`] does, and zeros in place
/// of y.
///
/// # Errors
/// Those of [`linear`].
pub fn linear_without_product<D: EdkmDevice, T: SaveForBackward<D>>(
    x: Matrix<D, T>,
    weight: &Matrix<D>,
    bias: Option<&Vector<D>>,
    clustering: Option<&Clustering>,
) -> Result<Matrix<D, T>, D::Err> {
    record(x, weight, bias, clustering, Product::LeftOut)
}

/// Whether y is made.
enum Product {
    Made,
    LeftOut,
}

fn record<D: EdkmDevice, T: SaveForBackward<D>>(
    x: Matrix<D, T>,
    weight: &Matrix<D>,
    bias: Option<&Vector<D>>,
    clustering: Option<&Clustering>,
    product: Product,
) -> Result<Matrix<D, T>, D::Err> {
    let _span = tracing::trace_span!("linear").entered();
    let (x, tape) = contiguous(x)?.split_tape();
    // the weight itself stays alive until the optimizer's step anyway: a handle, not a copy
    let (weight, tape) = in_order(weight, tape)?;
    let (bias, tape) = match bias {
        Some(bias) => {
            let (bias, tape) = in_order(bias, tape)?;
            let (bias, tape) = apart(bias.put_tape(tape), |bias| bias == D::address(&weight))?.split_tape();
            (Some(bias), tape)
        }
        None => (None, tape),
    };
    let is_parameter = |x| x == D::address(&weight) || bias.as_ref().is_some_and(|bias| x == D::address(bias));
    let (x, mut tape) = apart(x.put_tape(tape), is_parameter)?.split_tape();
    let device = x.device().clone();
    let ((tokens, inputs), (outputs, weight_inputs)) = (*x.shape(), *weight.shape());
    if inputs != weight_inputs || bias.as_ref().is_some_and(|b| b.shape().0 != outputs) {
        return Err(tape.fail(EdkmError::Shape {
            op: "linear",
            expected: format!(
                "x [tokens, {weight_inputs}] and a bias of {outputs} for a weight of [{outputs}, {weight_inputs}]"
            ),
            got: format!("x [{tokens}, {inputs}], bias {:?}", bias.as_ref().map(|b| b.shape().0)),
        }));
    }
    let dims = LinearDims {
        tokens,
        inputs,
        outputs,
    };
    let clustered = cluster(&device, dims, &weight, clustering, &tape, "linear")?;
    let y = match product {
        Product::Made => {
            let bias = bias.as_ref().map(D::view);
            let y = device
                .linear_forward(dims, D::view(&x), D::view(&weight), clustered.as_ref(), bias)
                .map_err(|error| tape.fail(error))?;
            device.tensor_from_buffer(y, (tokens, outputs))?
        }
        Product::LeftOut => device.try_zeros_like(&(tokens, outputs))?,
    };
    if !T::OWNS_TAPE {
        return Ok(y.put_tape(tape));
    }
    let (x_ghost, weight_ghost, y_ghost) = (x.ghost(), weight.ghost(), y.ghost());
    let bias_ghost = bias.map(|bias| bias.ghost());
    let segment = tape.segment();
    let saved = tape.save(x, SaveAs::local("linear.x"))?;
    tape.add_checked_op(move |grads| {
        let _span = tracing::trace_span!("linear backward").entered();
        let x = T::load(saved)?;
        let grad_y = output_gradient(&device, grads.get_or_alloc_mut(&y_ghost)?, &y_ghost)?;
        let mut grad_x = lend_gradient(&device, grads.get_or_alloc_mut(&x_ghost)?, &x_ghost)?;
        let mut grad_bias = match &bias_ghost {
            None => None,
            Some(ghost) => Some(lend_gradient(&device, grads.get_or_alloc_mut(ghost)?, ghost)?),
        };
        let outcome = device.linear_backward(
            dims,
            D::view(&x),
            D::view(&weight),
            clustered.as_ref(),
            &grad_y,
            LinearGradients {
                x: &mut grad_x,
                weight: gradient_slot(&device, grads.get_or_alloc_mut(&weight_ghost)?, &weight_ghost)?,
                bias: grad_bias.as_mut(),
            },
        );
        *grads.get_or_alloc_mut(&x_ghost)? = grad_x;
        if let (Some(ghost), Some(grad)) = (&bias_ghost, grad_bias) {
            *grads.get_or_alloc_mut(ghost)? = grad;
        }
        outcome.map_err(|error| segment.fail::<D>(error))
    });
    Ok(y.put_tape(tape))
}
