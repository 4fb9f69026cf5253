//! Output projection and cross-entropy together, in chunks of tokens, as `edkm_kernels::cross_entropy`: the logits of the last chunk are kept for the
//! backward pass, which begins with them.
#![allow(unsafe_code)]

use edkm_kernels::cross_entropy::Losses;

use crate::logits::{check_targets, Chunk, Extent, Logits};
use crate::runtime::blocks;
use crate::Argument::{Float, Size};
use crate::{check, Array, Runtime, Slice, SliceMut};

pub use crate::logits::Projection;

/// What the model should have said, on the host.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    /// The target of each token `[N]`.
    pub ids: &'a [u32],
    /// How much each token counts `[N]`; those of weight 0 cost nothing.
    pub weights: &'a [f32],
}

/// What [`forward`] leaves for [`backward`]: in the device's memory the logits of a chunk (`edkm_kernels::cross_entropy::tokens_at_once`).
pub struct Kept<R: Runtime> {
    /// Log-sum-exp of each token's logits `[N]`, 0 where the weight is 0, on the host.
    pub lse: Vec<f32>,
    extent: Extent,
    last: Option<(Chunk<R>, Logits<R>)>,
}

/// The weighted sum of the losses.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// If a target is not below V.
pub fn forward<R: Runtime>(
    runtime: &R,
    projection: Projection<'_>,
    targets: Targets<'_>,
) -> Result<(Losses, Kept<R>), R::Error> {
    let tokens = targets.ids.len();
    check::len("token weights [N]", targets.weights.len(), tokens);
    let mut losses = Losses::default();
    let mut kept = Kept {
        lse: vec![0.0; tokens],
        extent: Extent::default(),
        last: None,
    };
    if tokens == 0 {
        return Ok((losses, kept));
    }
    let axes = projection.axes(tokens);
    check_targets(targets.ids, targets.weights, axes.vocabulary);
    kept.extent = Extent::new([axes], targets.weights);
    for positions in kept.extent.chunks() {
        // its memory serves the next
        kept.last = None;
        let (chunk, logits) = projection.chunk(runtime, axes, positions)?;
        let rows = chunk.len();
        let ids = chunk.pick(runtime, targets.ids)?;
        let mut found = Array::<R, f32>::zeroed(runtime, 2 * rows)?;
        let mut found_mut = found.as_mut();
        let arguments = [
            logits.logits.as_slice().argument(),
            ids.as_slice().argument(),
            found_mut.part(0, rows).argument(),
            found_mut.part(rows, rows).argument(),
            Size(rows),
            Size(axes.vocabulary),
        ];
        // SAFETY: edkm_cross_entropy_forward(logits, targets, lse, target_logit, rows, vocabulary) reaches rows x vocabulary logits, the targets of
        // which were checked, and `rows` numbers of each half of `found`.
        unsafe { runtime.launch("edkm_cross_entropy_forward", blocks(rows), &arguments) }?;
        let found = found.to_host(runtime)?;
        for (i, &token) in chunk.positions.iter().enumerate() {
            let weight = f64::from(targets.weights[token]);
            losses.weight += weight;
            losses.total += weight * (f64::from(found[i]) - f64::from(found[rows + i]));
            kept.lse[token] = found[i];
        }
        kept.last = Some((chunk, logits));
    }
    Ok((losses, kept))
}

/// Adds `scale` x `grad_loss[0]` times the gradients of the weighted sum to `grad_x [N, H]` and `grad_w [V, H]`. `kept` as [`forward`] gave it.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// If a target is not below V; if `kept` is of other axes, or of other tokens that count.
pub fn backward<R: Runtime>(
    runtime: &R,
    projection: Projection<'_>,
    targets: Targets<'_>,
    kept: Kept<R>,
    grad_loss: Slice<'_, f32>,
    scale: f32,
    mut grad_x: SliceMut<'_, f32>,
    mut grad_w: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let tokens = targets.ids.len();
    let Kept {
        lse,
        extent: of_forward,
        mut last,
    } = kept;
    check::len("token weights [N]", targets.weights.len(), tokens);
    check::len("lse [N]", lse.len(), tokens);
    check::len("grad_loss", grad_loss.len(), 1);
    check::len("grad_x [N, H]", grad_x.len(), projection.x.len());
    check::len("grad_w [V, H]", grad_w.len(), projection.w.len());
    if tokens == 0 {
        return Ok(());
    }
    let axes = projection.axes(tokens);
    check_targets(targets.ids, targets.weights, axes.vocabulary);
    let extent = Extent::new([axes], targets.weights);
    extent.check_kept("cross_entropy", &of_forward);
    for positions in extent.chunks().into_iter().rev() {
        let (chunk, mut logits) = match last.take() {
            Some(last) => last,
            None => projection.chunk(runtime, axes, positions)?,
        };
        let rows = chunk.len();
        let ids = chunk.pick(runtime, targets.ids)?;
        let weights = chunk.pick(runtime, targets.weights)?;
        let lse = chunk.pick(runtime, &lse)?;
        let arguments = [
            logits.logits.as_mut().argument(),
            ids.as_slice().argument(),
            weights.as_slice().argument(),
            lse.as_slice().argument(),
            grad_loss.argument(),
            Float(scale),
            Size(rows),
            Size(axes.vocabulary),
        ];
        // SAFETY: edkm_cross_entropy_backward(logits, targets, weights, lse, grad_loss, scale, rows, vocabulary) reaches rows x vocabulary logits,
        // `rows` of targets, weights and lse, and one number of grad_loss.
        unsafe { runtime.launch("edkm_cross_entropy_backward", blocks(rows), &arguments) }?;
        projection.backward(runtime, axes, &chunk, &logits, grad_x.reborrow(), grad_w.reborrow())?;
    }
    Ok(())
}
