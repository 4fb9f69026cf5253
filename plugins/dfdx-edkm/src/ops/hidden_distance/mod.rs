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

    /// to += factor x times x from, with `times` one number and the others of one length.
    fn add_times(
        &self,
        from: Self::View<'_>,
        factor: f32,
        times: &<Self as Storage<f32>>::Vec,
        to: &mut <Self as Storage<f32>>::Vec,
    ) -> Result<(), Self::Err>;
}

/// `weight` times the mean squared distance of the hidden states x `[tokens, hidden]` from the teacher's, relative to the mean square of the
/// teacher's, so that one weight serves layers and models of any scale; 0 where the teacher's are all zero. Gives x as it came, on its tape, and the
/// distance, which is part of the loss once it is added to it ([`add_distances`]). The teacher is a constant.
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
        device.add_times(D::view(&difference), (2.0 * relative) as f32, &grad_distance, grad_x)
    });
    Ok((x.put_tape(tape), distance))
}

/// loss + trust x the sum of the distances. Saves nothing.
///
/// # Errors
/// The device's.
pub fn add_distances<D: EdkmDevice, T: SaveForBackward<D>>(
    loss: Tensor<Rank0, f32, D, T>,
    distances: &[Tensor<Rank0, f32, D>],
    trust: f32,
) -> Result<Tensor<Rank0, f32, D, T>, D::Err> {
    let (loss, mut tape) = loss.split_tape();
    let device = loss.device().clone();
    let number = |tensor: &Tensor<Rank0, f32, D>| tensor.as_vec()[0];
    let total = number(&loss) + trust * distances.iter().map(number).sum::<f32>();
    let total = device.try_tensor_from_vec(vec![total], ())?;
    if !T::OWNS_TAPE {
        return Ok(total.put_tape(tape));
    }
    let mut parts = vec![(loss.ghost(), 1.0)];
    parts.extend(distances.iter().map(|distance| (distance.ghost(), trust)));
    let total_ghost = total.ghost();
    let one = device.tensor_from_host(vec![1.0], (1usize,))?;
    tape.add_backward_op(move |grads| {
        let grad_total = take_gradient(&device, grads.get_or_alloc_mut(&total_ghost)?)?;
        for (part, factor) in parts {
            device.add_times(D::view(&one), factor, &grad_total, grads.get_or_alloc_mut(&part)?)?;
        }
        Ok(())
    });
    Ok(total.put_tape(tape))
}
