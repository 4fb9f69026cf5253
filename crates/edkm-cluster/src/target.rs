//! Where the gradient of the weights goes.

/// Upstream gradients dL/dW~ and the place of dL/dW.
pub(crate) enum Target<'g> {
    /// dL/dW replaces dL/dW~.
    InPlace(&'g mut [f32]),
    /// dL/dW is added to a total.
    Accumulate { upstream: &'g [f32], total: &'g mut [f32] },
}

impl<'g> Target<'g> {
    /// dL/dW~, until it is overwritten.
    pub(crate) fn upstream(&self) -> &[f32] {
        match self {
            Target::InPlace(grad) => grad,
            Target::Accumulate { upstream, .. } => upstream,
        }
    }

    /// A second use of the same place.
    pub(crate) fn reborrow(&mut self) -> Target<'_> {
        match self {
            Target::InPlace(grad) => Target::InPlace(grad),
            Target::Accumulate { upstream, total } => Target::Accumulate { upstream, total },
        }
    }

    /// The same for each consecutive `len` weights.
    pub(crate) fn split(self, len: usize) -> Vec<Target<'g>> {
        match self {
            Target::InPlace(grad) => grad.chunks_mut(len).map(Target::InPlace).collect(),
            Target::Accumulate { upstream, total } => {
                let parts = upstream.chunks(len).zip(total.chunks_mut(len));
                parts
                    .map(|(upstream, total)| Target::Accumulate { upstream, total })
                    .collect()
            }
        }
    }
}
