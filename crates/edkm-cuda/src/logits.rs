//! The output projection in chunks of tokens, on which the losses stand.

use edkm_kernels::cross_entropy::tokens_at_once;

use crate::embedding::{gather_rows, scatter_rows};
use crate::product::{nn, nt, tn, Accumulate};
use crate::{check, Array, Runtime, Slice, SliceMut};

/// Hidden states and the output projection that turns them into logits: l = x wᵀ.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a> {
    /// Hidden states `[N, H]`.
    pub x: Slice<'a, f32>,
    /// Projection `[V, H]`.
    pub w: Slice<'a, f32>,
}

/// The axes of a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Axes {
    pub(crate) hidden: usize,
    pub(crate) vocabulary: usize,
}

impl Projection<'_> {
    /// The axes, given the number of tokens (not 0).
    #[track_caller]
    pub(crate) fn axes(&self, tokens: usize) -> Axes {
        let hidden = self.x.len() / tokens;
        check::len("x [N, H]", self.x.len(), tokens * hidden);
        let vocabulary = check::rows("w [V, H]", self.w.len(), hidden);
        Axes { hidden, vocabulary }
    }

    /// Hidden states and logits of some tokens. Scratch: tokens x (H + V) x 4 bytes.
    pub(crate) fn logits<R: Runtime>(&self, runtime: &R, axes: Axes, chunk: &Chunk<R>) -> Result<Logits<R>, R::Error> {
        let rows = chunk.len();
        let mut x = Array::unset(runtime, rows * axes.hidden)?;
        gather_rows(runtime, self.x, chunk.tokens.as_slice(), axes.hidden, x.as_mut())?;
        let mut logits = Array::zeroed(runtime, rows * axes.vocabulary)?;
        nt(
            runtime,
            [rows, axes.vocabulary, axes.hidden],
            x.as_slice(),
            self.w,
            logits.as_mut(),
            Accumulate::Overwrite,
        )?;
        Ok(Logits { x, logits })
    }

    /// The tokens at `positions`, and their hidden states and logits.
    pub(crate) fn chunk<R: Runtime>(
        &self,
        runtime: &R,
        axes: Axes,
        positions: Vec<usize>,
    ) -> Result<(Chunk<R>, Logits<R>), R::Error> {
        let chunk = Chunk::new(runtime, positions)?;
        let logits = self.logits(runtime, axes, &chunk)?;
        Ok((chunk, logits))
    }

    /// Takes the gradient of a chunk's logits, which stands in their place, back to `grad_x [N, H]` and `grad_w [V, H]`.
    pub(crate) fn backward<R: Runtime>(
        &self,
        runtime: &R,
        axes: Axes,
        chunk: &Chunk<R>,
        logits: &Logits<R>,
        grad_x: SliceMut<'_, f32>,
        grad_w: SliceMut<'_, f32>,
    ) -> Result<(), R::Error> {
        let Axes { hidden, vocabulary } = axes;
        let rows = chunk.len();
        let grad_logits = logits.logits.as_slice();
        tn(
            runtime,
            [vocabulary, hidden, rows],
            grad_logits,
            logits.x.as_slice(),
            grad_w,
            Accumulate::Add,
        )?;
        let mut to_rows = Array::zeroed(runtime, rows * hidden)?;
        nn(
            runtime,
            [rows, hidden, vocabulary],
            grad_logits,
            self.w,
            to_rows.as_mut(),
            Accumulate::Overwrite,
        )?;
        scatter_rows(runtime, grad_x, chunk.tokens.as_slice(), hidden, to_rows.as_slice())
    }
}

/// A chunk's hidden states and logits.
pub(crate) struct Logits<R: Runtime> {
    x: Array<R, f32>,
    pub(crate) logits: Array<R, f32>,
}

/// Some tokens whose logits are held at once.
pub(crate) struct Chunk<R: Runtime> {
    pub(crate) positions: Vec<usize>,
    pub(crate) tokens: Array<R, u32>,
}

impl<R: Runtime> Chunk<R> {
    pub(crate) fn new(runtime: &R, positions: Vec<usize>) -> Result<Self, R::Error> {
        let tokens = positions.iter().map(|&n| check::in_u32("tokens of a loss", n));
        let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            tokens: Array::from_host(runtime, &tokens)?,
            positions,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    /// The chunk's numbers of those of all tokens, in the device's memory.
    pub(crate) fn pick<T: bytemuck::Pod>(&self, runtime: &R, all: &[T]) -> Result<Array<R, T>, R::Error> {
        Array::from_host(runtime, &self.positions.iter().map(|&n| all[n]).collect::<Vec<_>>())
    }
}

/// What a loss is of: the axes of the models that are held beside each other, and the tokens that count. The forward pass leaves logits for the backward pass, so
/// both must be of the same.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    models: Vec<Axes>,
    counted: Vec<usize>,
}

impl Extent {
    /// Tokens count if they have a weight.
    pub(crate) fn new(models: impl Into<Vec<Axes>>, token_weights: &[f32]) -> Self {
        Self {
            models: models.into(),
            counted: (0..token_weights.len()).filter(|&n| token_weights[n] != 0.0).collect(),
        }
    }

    /// The tokens that count, in chunks of which the logits of all models are held at once. The first model's axes say how many.
    pub(crate) fn chunks(&self) -> Vec<Vec<usize>> {
        let Some(axes) = self.models.first() else {
            return Vec::new();
        };
        let rows = tokens_at_once(axes.hidden, axes.vocabulary, self.models.len());
        self.counted.chunks(rows).map(<[usize]>::to_vec).collect()
    }

    /// Panics unless what the forward pass of `op` kept is of the same.
    #[track_caller]
    pub(crate) fn check_kept(&self, op: &str, kept: &Self) {
        assert!(
            self.models == kept.models,
            "{op}: the backward pass is of {:?}, and what was kept of the forward pass is of {:?}",
            self.models,
            kept.models
        );
        assert!(
            self.counted == kept.counted,
            "{op}: other tokens count than in the forward pass, of which something was kept: {} and {} of them",
            self.counted.len(),
            kept.counted.len()
        );
    }
}

/// Panics if a target that counts is outside of the vocabulary.
#[track_caller]
pub(crate) fn check_targets(targets: &[u32], token_weights: &[f32], vocabulary: usize) {
    let mut counted = targets.iter().zip(token_weights).filter(|(_, &weight)| weight != 0.0);
    if let Some((id, _)) = counted.find(|(&id, _)| id as usize >= vocabulary) {
        panic!("target {id} is beyond a vocabulary of {vocabulary}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AXES: Axes = Axes {
        hidden: 8,
        vocabulary: 300,
    };

    #[test]
    fn chunks_are_of_the_tokens_that_count() {
        let of = |models: &[Axes]| Extent::new(models, &[1.0, 0.0, 0.5, -0.0, 2.0]).chunks().concat();
        assert_eq!(of(&[AXES]), [0, 2, 4]);
        assert_eq!(of(&[AXES, AXES]), [0, 2, 4]);
        assert!(Extent::default().chunks().is_empty());
    }

    #[test]
    fn weights_of_the_same_tokens_may_differ() {
        let extent = |weights: &[f32]| Extent::new([AXES], weights);
        extent(&[1.0, 0.0]).check_kept("cross_entropy", &extent(&[0.5, 0.0]));
    }

    #[test]
    #[should_panic = "cross_entropy: the backward pass is of [Axes { hidden: 8, vocabulary: 301 }], and what was kept"]
    fn axes_must_be_those_of_the_forward_pass() {
        let other = Axes {
            vocabulary: 301,
            ..AXES
        };
        Extent::new([other], &[1.0]).check_kept("cross_entropy", &Extent::new([AXES], &[1.0]));
    }

    #[test]
    #[should_panic = "distillation: other tokens count than in the forward pass, of which something was kept: 1 and 1"]
    fn tokens_must_be_those_of_the_forward_pass() {
        let extent = |weights: &[f32]| Extent::new([AXES, AXES], weights);
        extent(&[0.0, 1.0]).check_kept("distillation", &extent(&[1.0, 0.0]));
    }
}
