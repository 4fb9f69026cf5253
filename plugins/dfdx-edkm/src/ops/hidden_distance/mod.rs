//! How far hidden states are from another model's: a hint for layers inside (FitNets, arXiv 1412.6550), beside [`super::distillation`] for the
//! predictions.
//!
//! Each token's distance is relative to the length of its own state. LLaMAs have tokens, the first of a text among them, whose states are hundreds of
//! times as large as the others' (arXiv 2402.17762): relative to all of them together the others' distances would count for nothing.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use dfdx::prelude::*;

use super::Matrix;
use crate::device::{contiguous, DeviceMemory};
use crate::gradients::{gradient_slot, output_gradient};
use crate::{EdkmDevice, EdkmError, SaveAs, SaveForBackward};

/// How far the rows of x are from those of y.
pub struct Distance<D: DeviceMemory> {
    /// (x - y) / |y|^2 row by row, of their length.
    pub half_gradient: D::Fresh,
    /// The sum over rows of |x - y|^2 / |y|^2.
    pub sum: f64,
}

/// The device's part.
pub trait HiddenDistanceKernel: DeviceMemory {
    /// The distance of rows `[N, width]`; sums in a fixed order. A row of y without length counts nothing.
    fn distance(&self, x: Self::View<'_>, y: Self::View<'_>, width: usize) -> Result<Distance<Self>, Self::Err>;

    /// to += factor x times x from, with `times` one number and the others of one length.
    fn add_times(
        &self,
        from: Self::View<'_>,
        factor: f32,
        times: &<Self as Storage<f32>>::Vec,
        to: &mut <Self as Storage<f32>>::Vec,
    ) -> Result<(), Self::Err>;
}

/// `weight` times the mean over tokens of the squared distance of the hidden states x `[tokens, hidden]` from the teacher's, |x - y|^2 / |y|^2, so that one
/// weight serves tokens, layers and models of any scale; a token whose teacher's state is zero counts nothing. Gives x as it came, on its tape, and
/// the distance, which is part of the loss once it is added to it ([`add_distances`]). The teacher is a constant.
///
/// Saves the gradient, as large as x.
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
    let Distance { half_gradient, sum } = device.distance(D::view(&x), D::view(&teacher), shape.1)?;
    let of_token = f64::from(weight) / shape.0.max(1) as f64;
    let distance = device.try_tensor_from_vec(vec![(of_token * sum) as f32], ())?;
    if !T::OWNS_TAPE {
        return Ok((x.put_tape(tape), distance));
    }
    let (x_ghost, distance_ghost) = (x.ghost(), distance.ghost());
    let half_gradient = device.tensor_from_buffer(half_gradient, shape)?;
    let saved = tape.save(half_gradient, SaveAs::local("hidden_distance.gradient"))?;
    tape.add_checked_op(move |grads| {
        let _span = tracing::trace_span!("hidden_distance backward").entered();
        let half_gradient = T::load(saved)?;
        let grad_distance = output_gradient(&device, grads.get_or_alloc_mut(&distance_ghost)?, &distance_ghost)?;
        let grad_x = gradient_slot(&device, grads.get_or_alloc_mut(&x_ghost)?, &x_ghost)?;
        device.add_times(D::view(&half_gradient), (2.0 * of_token) as f32, &grad_distance, grad_x)
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
    tape.add_checked_op(move |grads| {
        let grad_total = output_gradient(&device, grads.get_or_alloc_mut(&total_ghost)?, &total_ghost)?;
        for (part, factor) in parts {
            device.add_times(
                D::view(&one),
                factor,
                &grad_total,
                gradient_slot(&device, grads.get_or_alloc_mut(&part)?, &part)?,
            )?;
        }
        Ok(())
    });
    Ok(total.put_tape(tape))
}
