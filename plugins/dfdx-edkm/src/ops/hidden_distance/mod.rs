//! How far hidden states are from another model's: a hint for layers inside (FitNets, arXiv 1412.6550), beside [`super::distillation`] for the
//! predictions.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use dfdx::prelude::*;

use super::Matrix;
use crate::device::{contiguous, take_gradient, DeviceMemory};
use crate::{EdkmDevice, EdkmError, SaveAs, SaveForBackward};

/// x - y, and what is needed of their sizes.
pub struct Difference<D: DeviceMemory> {
    /// x - y, of their length.
    pub difference: D::Fresh,
    /// The sum of its squares.
    pub squares: f64,
    /// The sum of the squares of y.
    pub squares_of_second: f64,
}

/// The device's part.
pub trait HiddenDistanceKernel: DeviceMemory {
    /// The difference of two runs of one length; sums in a fixed order.
    fn difference(&self, x: Self::View<'_>, y: Self::View<'_>) -> Result<Difference<Self>, Self::Err>;

    /// grad += factor x grad_distance x difference, with `grad_distance` one number.
    fn hidden_distance_backward(
        &self,
        difference: Self::View<'_>,
        factor: f32,
        grad_distance: &<Self as Storage<f32>>::Vec,
        grad: &mut <Self as Storage<f32>>::Vec,
    ) -> Result<(), Self::Err>;
}

/// `weight` times the mean squared distance of the hidden states x `[tokens, hidden]` from the teacher's, relative to the mean square of the
/// teacher's, so that one weight serves layers and models of any scale; 0 where the teacher's are all zero. Gives x as it came, on its tape, and the
/// distance, which is part of the loss once it is added to it. The teacher is a constant.
///
/// Saves the difference, as large as x.
///
/// # Errors
/// Shapes that differ; a store that fails.
#[allow(clippy::type_complexity)]
pub fn hidden_distance<D: EdkmDevice, T: SaveForBackward<D>>(
    x: Matrix<D, T>,
    teacher: Matrix<D>,
    weight: f32,
) -> Result<(Matrix<D, T>, Tensor<Rank0, f32, D>), D::Err> {
    let _span = tracing::trace_span!("hidden_distance").entered();
    let (x, mut tape) = contiguous(x)?.split_tape();
    let teacher = contiguous(teacher)?;
    let device = x.device().clone();
    let shape = *x.shape();
    if shape != *teacher.shape() {
        return Err(tape.fail(EdkmError::Shape {
            op: "hidden_distance",
            expected: format!("a teacher's hidden states of the shape of the student's, {shape:?}"),
            got: format!("{:?}", teacher.shape()),
        }));
    }
    let Difference {
        difference,
        squares,
        squares_of_second,
    } = device.difference(D::view(&x), D::view(&teacher))?;
    let relative = match squares_of_second > 0.0 {
        true => f64::from(weight) / squares_of_second,
        false => 0.0,
    };
    let distance = device.try_tensor_from_vec(vec![(relative * squares) as f32], ())?;
    if !T::OWNS_TAPE {
        return Ok((x.put_tape(tape), distance));
    }
    let (x_ghost, distance_ghost) = (x.ghost(), distance.ghost());
    let difference = device.tensor_from_buffer(difference, shape)?;
    let saved = tape.save(difference, SaveAs::local("hidden_distance.difference"))?;
    tape.add_backward_op(move |grads| {
        let _span = tracing::trace_span!("hidden_distance backward").entered();
        let difference = T::load(saved)?;
        let grad_distance = take_gradient(&device, grads.get_or_alloc_mut(&distance_ghost)?)?;
        let grad_x = grads.get_or_alloc_mut(&x_ghost)?;
        device.hidden_distance_backward(D::view(&difference), (2.0 * relative) as f32, &grad_distance, grad_x)
    });
    Ok((x.put_tape(tape), distance))
}
