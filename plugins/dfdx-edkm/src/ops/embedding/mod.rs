//! Rows of a table by token id.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use std::sync::Arc;

use dfdx::prelude::*;

use super::linear::{cluster, ClusteredUse, LinearDims};
use super::{in_order, Matrix};
use crate::device::DeviceMemory;
use crate::gradients::{gradient_slot, output_gradient};
use crate::{Clustering, EdkmDevice, EdkmError, SaveForBackward};

/// The device's part of an embedding.
pub trait EmbeddingKernel: DeviceMemory {
    /// The rows `ids` of the (clustered) table `[vocabulary, hidden]`.
    fn embedding_forward(
        &self,
        dims: LinearDims,
        table: Self::View<'_>,
        clustered: Option<&ClusteredUse>,
        ids: &[u32],
    ) -> Result<Self::Fresh, EdkmError>;

    /// Adds the rows of `grad_out` to the gradient of the table, through the clustering if there is one.
    fn embedding_backward(
        &self,
        dims: LinearDims,
        table: Self::View<'_>,
        clustered: Option<&ClusteredUse>,
        ids: &[u32],
        grad_out: &<Self as Storage<f32>>::Vec,
        grad_table: &mut <Self as Storage<f32>>::Vec,
    ) -> Result<(), EdkmError>;
}

/// The rows `ids` of `table [vocabulary, hidden]`, as a matrix `[tokens, hidden]` on `tape`. With a `clustering`, rows of the clustered
/// table. Saves nothing but the ids.
///
/// # Errors
/// An id outside the table; a table that is not finite.
pub fn embedding<D: EdkmDevice, T: SaveForBackward<D>>(
    ids: Arc<[u32]>,
    table: &Matrix<D>,
    clustering: Option<&Clustering>,
    tape: T,
) -> Result<Matrix<D, T>, D::Err> {
    let _span = tracing::trace_span!("embedding").entered();
    let (table, mut tape) = in_order(table, tape)?;
    let device = table.device().clone();
    let (vocabulary, hidden) = *table.shape();
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
        return Err(tape.fail(EdkmError::Shape {
            op: "embedding",
            expected: format!("token ids below {vocabulary}, the rows of the table"),
            got: format!("id {id}"),
        }));
    }
    let dims = LinearDims {
        tokens: ids.len(),
        inputs: hidden,
        outputs: vocabulary,
    };
    let clustered = cluster(&device, dims, &table, clustering, &tape, "embedding")?;
    let rows = device
        .embedding_forward(dims, D::view(&table), clustered.as_ref(), &ids)
        .map_err(|error| tape.fail(error))?;
    let rows = device.tensor_from_buffer(rows, (ids.len(), hidden))?;
    if !T::OWNS_TAPE {
        return Ok(rows.put_tape(tape));
    }
    let (table_ghost, rows_ghost) = (table.ghost(), rows.ghost());
    let segment = tape.segment();
    tape.add_checked_op(move |grads| {
        let _span = tracing::trace_span!("embedding backward").entered();
        let grad_rows = output_gradient(&device, grads.get_or_alloc_mut(&rows_ghost)?, &rows_ghost)?;
        let grad_table = gradient_slot(&device, grads.get_or_alloc_mut(&table_ghost)?, &table_ghost)?;
        device
            .embedding_backward(dims, D::view(&table), clustered.as_ref(), &ids, &grad_rows, grad_table)
            .map_err(|error| segment.fail::<D>(error))
    });
    Ok(rows.put_tape(tape))
}
