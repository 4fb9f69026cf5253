//! Causal grouped-query attention by tiles (arXiv 2205.14135): no map of positions x positions is kept, or ever whole.
//!
//! Texts that share a sequence can be kept apart ([`Segments`]): none sees another, and what lies between them is not computed.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use dfdx::prelude::*;
pub use edkm_kernels::attention::{Dims as AttentionDims, Segments};

use super::{apart, Matrix};
use crate::device::{contiguous, DeviceMemory};
use crate::gradients::{gradient_slot, lend_gradient, output_gradient};
use crate::tape::Shared;
use crate::{EdkmDevice, EdkmError, SaveAs, SaveForBackward};

/// The device's part of attention.
pub trait AttentionKernel: DeviceMemory {
    /// The output `[batch, seq, heads, head_dim]` and, for backward, the log-sum-exp of each query and head, in an order of the device's own.
    fn attention_forward(
        &self,
        dims: &AttentionDims,
        segments: Option<&Segments>,
        q: Self::View<'_>,
        k: Self::View<'_>,
        v: Self::View<'_>,
    ) -> Result<(Self::Fresh, Self::Fresh), Self::Err>;

    /// Why the device cannot do with these sizes, if it cannot.
    fn attention_refusal(&self, _: &AttentionDims) -> Option<EdkmError> {
        None
    }

    /// Adds to the gradients of q, k and v.
    fn attention_backward(
        &self,
        dims: &AttentionDims,
        segments: Option<&Segments>,
        saved: AttentionSaved<Self::View<'_>>,
        grad_out: &<Self as Storage<f32>>::Vec,
        grads: [&mut <Self as Storage<f32>>::Vec; 3],
    ) -> Result<(), Self::Err>;
}

/// What attention's backward pass reads.
#[derive(Clone, Copy)]
pub struct AttentionSaved<V> {
    /// `[batch, seq, heads, head_dim]`
    pub q: V,
    /// `[batch, seq, kv_heads, head_dim]`
    pub k: V,
    /// `[batch, seq, kv_heads, head_dim]`
    pub v: V,
    /// `[batch, seq, heads, head_dim]`
    pub out: V,
    /// `batch * heads * seq` numbers, as forward left them
    pub lse: V,
}

/// Whether the forward pass, 2 * seq * features operations a token with the causal half left out, costs at most a quarter of the projection that
/// reads its output, which takes 2 * features^2 if it is square.
fn output_is_cheap(dims: &AttentionDims) -> bool {
    dims.seq <= dims.heads * dims.head_dim / 4
}

/// softmax(q k^T * scale, causal) v for q `[batch * seq, heads * head_dim]` and k, v `[batch * seq, kv_heads * head_dim]`.
///
/// Saves q, k, v, one number a query and head, and, in long sequences, the output (which the projection behind it saves too: one copy under a
/// marshaling store). Up to a quarter as many tokens as features the output is made again: attention's forward pass is then at most a quarter
/// of that of the projection.
///
/// # Errors
/// Shapes that do not fit; a store that fails.
pub fn attention<D: EdkmDevice, T: SaveForBackward<D>>(
    q: Matrix<D, T>,
    k: Matrix<D, T>,
    v: Matrix<D, T>,
    dims: AttentionDims,
) -> Result<Matrix<D, T>, D::Err> {
    attention_of_segments(q, k, v, dims, None)
}

/// [`attention`], each position seeing those of its own segment alone, if there are segments.
///
/// # Errors
/// As [`attention`]; segments of other sequences.
pub fn attention_of_segments<D: EdkmDevice, T: SaveForBackward<D>>(
    q: Matrix<D, T>,
    k: Matrix<D, T>,
    v: Matrix<D, T>,
    dims: AttentionDims,
    segments: Option<&Segments>,
) -> Result<Matrix<D, T>, D::Err> {
    let _span = tracing::trace_span!("attention").entered();
    let (q, tape) = contiguous(q)?.split_tape();
    let (k, k_tape) = apart(contiguous(k)?, |k| k == D::address(&q))?.split_tape();
    let (v, v_tape) = apart(contiguous(v)?, |v| v == D::address(&q) || v == D::address(&k))?.split_tape();
    let mut tape = tape.merge(k_tape).merge(v_tape);
    let device = q.device().clone();
    let tokens = dims.batch * dims.seq;
    let (q_shape, kv_shape) = (
        (tokens, dims.heads * dims.head_dim),
        (tokens, dims.kv_heads * dims.head_dim),
    );
    let groups = dims.kv_heads != 0 && dims.heads.is_multiple_of(dims.kv_heads);
    if *q.shape() != q_shape || *k.shape() != kv_shape || *v.shape() != kv_shape || !groups {
        return Err(tape.fail(EdkmError::Shape {
            op: "attention",
            expected: format!("q {q_shape:?}, k and v {kv_shape:?}, and query heads a multiple of key heads"),
            got: format!("q {:?}, k {:?}, v {:?}", q.shape(), k.shape(), v.shape()),
        }));
    }
    if segments.is_some_and(|segments| !segments.are_of(dims.batch, dims.seq)) {
        return Err(tape.fail(EdkmError::Shape {
            op: "attention",
            expected: format!("segments of {} sequences of {}", dims.batch, dims.seq),
            got: format!("{segments:?}"),
        }));
    }
    let segments = segments.cloned();
    if let Some(refusal) = device.attention_refusal(&dims) {
        return Err(tape.fail(refusal));
    }
    let (out, lse) = device.attention_forward(&dims, segments.as_ref(), D::view(&q), D::view(&k), D::view(&v))?;
    let out = device.tensor_from_buffer(out, q_shape)?;
    if !T::OWNS_TAPE {
        return Ok(out.put_tape(tape));
    }
    let lse = device.tensor_from_buffer(lse, (dims.batch * dims.heads * dims.seq,))?;
    let (q_ghost, k_ghost, v_ghost, out_ghost) = (q.ghost(), k.ghost(), v.ghost(), out.ghost());
    let saved_q = Shared::<_, D, T>::new(tape.save(q, SaveAs::local("attention.q"))?);
    let saved_k = Shared::<_, D, T>::new(tape.save(k, SaveAs::local("attention.k"))?);
    let saved_v = Shared::<_, D, T>::new(tape.save(v, SaveAs::local("attention.v"))?);
    if output_is_cheap(&dims) {
        let (device, q, k, v) = (device.clone(), saved_q.clone(), saved_k.clone(), saved_v.clone());
        let segments = segments.clone();
        tape.remade_by(&out, move || {
            let (v, k, q) = (v.get()?, k.get()?, q.get()?);
            let (out, _) = device.attention_forward(&dims, segments.as_ref(), D::view(&q), D::view(&k), D::view(&v))?;
            device.tensor_from_buffer(out, (q_shape.0 * q_shape.1,))
        })?;
    }
    let saved_lse = tape.save(lse, SaveAs::local("attention.lse").exactly())?;
    let saved_out = tape.save(out.clone(), SaveAs::local("attention.out"))?;
    tape.add_checked_op(move |grads| {
        let _span = tracing::trace_span!("attention backward").entered();
        let (out, lse) = (T::load(saved_out)?, T::load(saved_lse)?);
        let (v, k, q) = (saved_v.get()?, saved_k.get()?, saved_q.get()?);
        let grad_out = output_gradient(&device, grads.get_or_alloc_mut(&out_ghost)?, &out_ghost)?;
        let mut grad_q = lend_gradient(&device, grads.get_or_alloc_mut(&q_ghost)?, &q_ghost)?;
        let mut grad_k = lend_gradient(&device, grads.get_or_alloc_mut(&k_ghost)?, &k_ghost)?;
        let grad_v = gradient_slot(&device, grads.get_or_alloc_mut(&v_ghost)?, &v_ghost)?;
        let saved = AttentionSaved {
            q: D::view(&q),
            k: D::view(&k),
            v: D::view(&v),
            out: D::view(&out),
            lse: D::view(&lse),
        };
        device.attention_backward(
            &dims,
            segments.as_ref(),
            saved,
            &grad_out,
            [&mut grad_q, &mut grad_k, grad_v],
        )?;
        *grads.get_or_alloc_mut(&k_ghost)? = grad_k;
        *grads.get_or_alloc_mut(&q_ghost)? = grad_q;
        Ok(())
    });
    Ok(out.put_tape(tape))
}
