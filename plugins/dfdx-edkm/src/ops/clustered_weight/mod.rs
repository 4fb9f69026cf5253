//! W~ as a tensor, for whatever multiplies by it.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use dfdx::prelude::*;
use edkm_cluster::MatrixShape;

use super::linear::{ClusteredUse, LinearDims, LinearKernel};
use crate::device::contiguous;
use crate::gradients::{gradient_slot, output_gradient};
use crate::parameters::as_matrix_shape;
use crate::{Clustering, EdkmDevice, EdkmError, SaveForBackward};

/// The device's part of a clustered weight that is a tensor of its own.
pub trait ClusteredWeightKernel: LinearKernel {
    /// W~ of a weight `[outputs, inputs]`.
    fn clustered_weight_forward(
        &self,
        dims: LinearDims,
        weight: Self::View<'_>,
        clustered: &ClusteredUse,
    ) -> Result<Self::Fresh, EdkmError>;

    /// Adds dL/dW to `grad_weight`, given dL/dW~, which may be spoilt.
    fn clustered_weight_backward(
        &self,
        dims: LinearDims,
        weight: Self::View<'_>,
        clustered: &ClusteredUse,
        grad_out: <Self as Storage<f32>>::Vec,
        grad_weight: &mut <Self as Storage<f32>>::Vec,
    ) -> Result<(), EdkmError>;
}

/// The clustered weight W~ of a `weight` of any shape, as a tensor of the same shape: for experts of a mixture, convolutions, and all that is no layer of
/// [`crate::nn`]. Its rows, which groups and factors of channels go by, are the slices of the first axis (a vector is one row).
///
/// Each weight has a [`Clustering`] of its own. Saves nothing but the trajectory of the centroids. W~ itself stays alive as long as the op that it is given to keeps it: with dfdx's ops, to their backward
/// pass. [`mod@super::linear`] keeps none, so take that where it fits, or put [`crate::checkpoint`] around the part.
///
/// ```
/// use dfdx::prelude::*;
/// use dfdx_edkm::ops::clustered_weight::clustered_weight;
/// use dfdx_edkm::{Bits, Clustering, Spec};
///
/// # fn main() -> Result<(), dfdx_edkm::ClusterError> {
/// let dev: Cpu = Default::default();
/// // four experts of a mixture
/// let experts: Tensor<Rank3<4, 16, 8>, f32, _> = dev.sample_normal();
/// let clustering = Clustering::new(Spec::new(Bits::new(2)?));
/// let x: Tensor<Rank3<4, 32, 16>, f32, _> = dev.sample_normal();
///
/// // the tape goes through the weight and back to the input
/// let (x, tape) = x.leaky_trace().split_tape();
/// let (clustered, tape) = clustered_weight(experts.clone().put_tape(tape), &clustering).unwrap().split_tape();
/// let y = x.put_tape(tape).matmul(clustered);
/// let gradients = y.square().mean().backward();
/// assert_eq!(gradients.get(&experts).shape(), experts.shape());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A weight that is not finite or has no numbers, vectors that do not divide its rows: a device error, with the reason in the tape's [`crate::Failure`].
///
/// # Source
/// M. Cho et al., DKM: Differentiable k-Means Clustering Layer for Neural Network Compression, arXiv 2108.12659, section 3.
pub fn clustered_weight<S: Shape, D: EdkmDevice, T: SaveForBackward<D>>(
    weight: Tensor<S, f32, D, T>,
    clustering: &Clustering,
) -> Result<Tensor<S, f32, D, T>, D::Err> {
    let _span = tracing::trace_span!("clustered weight").entered();
    let (weight, mut tape) = contiguous(weight)?.split_tape();
    let device = weight.device().clone();
    let MatrixShape { rows, cols } = as_matrix_shape(weight.shape());
    let dims = LinearDims {
        tokens: 0,
        inputs: cols,
        outputs: rows,
    };
    let clustered = device
        .cluster(
            &clustering.label("clustered_weight"),
            D::view(&weight),
            dims.weight_shape(),
            clustering,
        )
        .map_err(|error| tape.fail(error))?;
    let out = device
        .clustered_weight_forward(dims, D::view(&weight), &clustered)
        .map_err(|error| tape.fail(error))?;
    let out = device.tensor_from_buffer(out, *weight.shape())?;
    if !T::OWNS_TAPE {
        return Ok(out.put_tape(tape));
    }
    let (weight_ghost, out_ghost) = (weight.ghost(), out.ghost());
    let segment = tape.segment();
    tape.add_checked_op(move |grads| {
        let _span = tracing::trace_span!("clustered weight backward").entered();
        let grad_out = output_gradient(&device, grads.get_or_alloc_mut(&out_ghost)?, &out_ghost)?;
        let grad_weight = gradient_slot(&device, grads.get_or_alloc_mut(&weight_ghost)?, &weight_ghost)?;
        device
            .clustered_weight_backward(dims, D::view(&weight), &clustered, grad_out, grad_weight)
            .map_err(|error| segment.fail::<D>(error))
    });
    Ok(out.put_tape(tape))
}
