//! The fused ops. Each is a directory: `mod.rs` with the API and what its backward needs, one kernel file a device.
//!
//! All take matrices of run-time shape, `[tokens, features]` row-major; a tensor of any other shape is brought there by dfdx's
//! `reshape_like`, which keeps storage and gradient. Every save goes through [`crate::SaveForBackward`], and each op frees the
//! gradient of its output as soon as it has used it where the gradients have leaves (dfdx keeps those of all temporaries to the end of backward).
//!
//! The outputs of RMSNorm, SwiGLU and (in sequences that are short beside the features) attention follow from what these ops save, at little
//! cost: on a [`crate::StoreTape`] an op that reads them saves nothing. So of a decoder layer are kept: its input, q, k, v, the sum behind
//! attention, gate and up.
//!
//! | op | saves | beyond |
//! |---|---|---|
//! | [`mod@linear`] | its input | the trajectory of the centroids, if clustered: about a kilobyte a palette of 8 values |
//! | [`mod@rms_norm`] | its input | |
//! | [`mod@rotary`] | nothing | |
//! | [`mod@swiglu`] | gate and up | |
//! | [`mod@attention`] | q, k, v, its output | the row-wise log-sum-exp: one number a query and head |
//! | [`mod@cross_entropy`] | its input | the row-wise log-sum-exp: one number a token |
//! | [`mod@distillation`] | its input | two numbers a token |
//! | [`mod@hidden_distance`] | its gradient, as large as its input | |
//! | [`mod@embedding`], [`mod@add`] | nothing | |
//! | [`mod@clustered_weight`] | nothing; what multiplies by it may | the trajectory of the centroids |

pub mod add;
pub mod attention;
pub mod clustered_weight;
pub mod cross_entropy;
pub mod distillation;
pub mod embedding;
pub mod hidden_distance;
pub mod linear;
pub mod rms_norm;
pub mod rotary;
mod scratch;
pub mod swiglu;

use dfdx::prelude::*;

use crate::device::{contiguous, DeviceMemory};

/// A matrix of run-time shape on a tape.
pub type Matrix<D, T = NoneTape> = Tensor<(usize, usize), f32, D, T>;
/// A vector of run-time length on a tape.
pub type Vector<D, T = NoneTape> = Tensor<(usize,), f32, D, T>;

/// A tensor of any shape as a matrix of its last axis, `[everything before, last]`: the same storage, the same gradient.
///
/// # Errors
/// The device's, when a tensor that is not contiguous is copied.
pub fn as_matrix<S: Shape, D: DeviceMemory, T: Tape<f32, D>>(
    tensor: Tensor<S, f32, D, T>,
) -> Result<Matrix<D, T>, D::Err> {
    let tensor = contiguous(tensor)?;
    let sizes = tensor.shape().concrete();
    let last = sizes.as_ref().last().copied().unwrap_or(1);
    let rows = tensor.shape().num_elements() / last.max(1);
    tensor.try_reshape_like(&(rows, last))
}

/// An input of an op, or a copy of it where it is the same tensor as another input, by where that is: `Gradients` lends one gradient at a time, and
/// one of its own each must have.
fn apart<S: Shape, D: DeviceMemory, T: Tape<f32, D>>(
    tensor: Tensor<S, f32, D, T>,
    is_other: impl FnOnce(u64) -> bool,
) -> Result<Tensor<S, f32, D, T>, D::Err> {
    let (tensor, tape) = tensor.split_tape();
    let is_same = T::OWNS_TAPE && tensor.shape().num_elements() > 0 && is_other(D::address(&tensor));
    let tensor = tensor.put_tape(tape);
    if is_same {
        tensor.try_mul(1.0f32)
    } else {
        Ok(tensor)
    }
}

/// A parameter whose numbers lie in the order of their indices: itself, or a copy that is made on `tape`, so that its gradient comes to the parameter.
///
/// # Errors
/// The device's, when it is copied.
#[allow(clippy::type_complexity)]
fn in_order<S: Shape, D: DeviceMemory, T: Tape<f32, D>>(
    parameter: &Tensor<S, f32, D>,
    tape: T,
) -> Result<(Tensor<S, f32, D>, T), D::Err> {
    if D::is_contiguous(parameter) {
        return Ok((parameter.clone(), tape));
    }
    let (copy, of_copy) = parameter.clone().put_tape(T::default()).try_contiguous()?.split_tape();
    Ok((copy, tape.merge(of_copy)))
}

/// The same in another shape.
///
/// # Errors
/// As [`in_order`].
#[allow(clippy::type_complexity)]
pub(crate) fn in_order_as<S: Shape, Out: Shape, D: DeviceMemory, T: Tape<f32, D>>(
    parameter: &Tensor<S, f32, D>,
    shape: Out,
    tape: T,
) -> Result<(Tensor<Out, f32, D>, T), D::Err> {
    if D::is_contiguous(parameter) {
        // dfdx copies what has another stride along an axis of length one
        let same = parameter.clone().try_reshape_like(&shape)?;
        if shape.num_elements() == 0 || D::address(&same) == D::address(parameter) {
            return Ok((same, tape));
        }
    }
    let copy = parameter.clone().put_tape(T::default()).try_reshape_like(&shape)?;
    let (copy, of_copy) = copy.split_tape();
    Ok((copy, tape.merge(of_copy)))
}
