//! Root-mean-square normalisation (arXiv 1910.07467): y = x / sqrt(mean(x^2) + eps) * w, row by row.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use dfdx::prelude::*;

use super::{apart, in_order, Matrix, Vector};
use crate::device::{contiguous, DeviceMemory};
use crate::gradients::{gradient_slot, lend_gradient, output_gradient};
use crate::tape::Shared;
use crate::{EdkmDevice, EdkmError, SaveAs, SaveForBackward};

/// The device's part of RMSNorm.
pub trait RmsNormKernel: DeviceMemory {
    /// y of the shape of x; rows have the length of `weight`.
    fn rms_norm_forward(&self, x: Self::View<'_>, weight: Self::View<'_>, eps: f32) -> Result<Self::Fresh, Self::Err>;

    /// Adds to the gradients of x and of the weight.
    fn rms_norm_backward(
        &self,
        x: Self::View<'_>,
        weight: Self::View<'_>,
        eps: f32,
        grad_out: &<Self as Storage<f32>>::Vec,
        grad_x: &mut <Self as Storage<f32>>::Vec,
        grad_weight: &mut <Self as Storage<f32>>::Vec,
    ) -> Result<(), Self::Err>;
}

/// Normalises the rows of x `[tokens, hidden]` and scales them by `weight [hidden]`. Saves x; the row's scale is computed again, and so is
/// y if another op needs it.
///
/// # Errors
/// Shapes that do not fit; a store that fails.
pub fn rms_norm<D: EdkmDevice, T: SaveForBackward<D>>(
    x: Matrix<D, T>,
    weight: &Vector<D>,
    eps: f32,
) -> Result<Matrix<D, T>, D::Err> {
    let _span = tracing::trace_span!("rms_norm").entered();
    let (x, tape) = contiguous(x)?.split_tape();
    let (weight, tape) = in_order(weight, tape)?;
    let (x, mut tape) = apart(x.put_tape(tape), |x| x == D::address(&weight))?.split_tape();
    let device = x.device().clone();
    let shape = *x.shape();
    if shape.1 != weight.shape().0 {
        return Err(tape.fail(EdkmError::Shape {
            op: "rms_norm",
            expected: format!("rows of {}, as the weight", weight.shape().0),
            got: format!("x {shape:?}"),
        }));
    }
    let y = device.rms_norm_forward(D::view(&x), D::view(&weight), eps)?;
    let y = device.tensor_from_buffer(y, shape)?;
    if !T::OWNS_TAPE {
        return Ok(y.put_tape(tape));
    }
    let (x_ghost, weight_ghost, y_ghost) = (x.ghost(), weight.ghost(), y.ghost());
    let saved = Shared::<_, D, T>::new(tape.save(x, SaveAs::local("rms_norm.x"))?);
    tape.remade_by(&y, {
        let (device, weight, saved) = (device.clone(), weight.clone(), saved.clone());
        move || {
            let y = device.rms_norm_forward(D::view(&saved.get()?), D::view(&weight), eps)?;
            device.tensor_from_buffer(y, (shape.0 * shape.1,))
        }
    })?;
    tape.add_checked_op(move |grads| {
        let _span = tracing::trace_span!("rms_norm backward").entered();
        let x = saved.get()?;
        let grad_y = output_gradient(&device, grads.get_or_alloc_mut(&y_ghost)?, &y_ghost)?;
        let mut grad_x = lend_gradient(&device, grads.get_or_alloc_mut(&x_ghost)?, &x_ghost)?;
        let grad_weight = gradient_slot(&device, grads.get_or_alloc_mut(&weight_ghost)?, &weight_ghost)?;
        device.rms_norm_backward(D::view(&x), D::view(&weight), eps, &grad_y, &mut grad_x, grad_weight)?;
        *grads.get_or_alloc_mut(&x_ghost)? = grad_x;
        Ok(())
    });
    Ok(y.put_tape(tape))
}
