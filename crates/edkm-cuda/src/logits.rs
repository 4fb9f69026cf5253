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
#[derive(Clone, Copy)]
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
        let tokens: Vec<u32> = positions.iter().map(|&n| n as u32).collect();
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

/// The tokens with a weight, in chunks of which the logits of `models` models are held at once.
pub(crate) fn chunks(token_weights: &[f32], axes: Axes, models: usize) -> Vec<Vec<usize>> {
    let rows = tokens_at_once(axes.hidden, axes.vocabulary, models);
    let counted: Vec<usize> = (0..token_weights.len()).filter(|&n| token_weights[n] != 0.0).collect();
    counted.chunks(rows).map(<[usize]>::to_vec).collect()
}

/// Panics if a target that counts is outside of the vocabulary.
#[track_caller]
pub(crate) fn check_targets(targets: &[u32], token_weights: &[f32], vocabulary: usize) {
    let mut counted = targets.iter().zip(token_weights).filter(|(_, &weight)| weight != 0.0);
    if let Some((id, _)) = counted.find(|(&id, _)| id as usize >= vocabulary) {
        panic!("target {id} is beyond a vocabulary of {vocabulary}");
    }
}
