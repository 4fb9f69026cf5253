//! The output projection in chunks of tokens, on which the losses stand: `[N, V]` is never held at once.

use crate::{
    check,
    elementwise::{self, exp},
    lanes::{self, dispatch},
    matmul::{self, Accumulate},
    parallel::PIECE,
};
use rayon::prelude::*;
use std::{borrow::Cow, ops::Range};

/// Tokens of which a loss holds the logits at once, of `models` models together: 128 MiB or a quarter of the projection's size, whichever is more, but at
/// least 16 tokens. Every chunk reads the projection and, in backward, reads and writes its gradient, which is there at the same time and larger: so chunks
/// must not be small, and need not be.
pub fn tokens_at_once(hidden: usize, vocabulary: usize, models: usize) -> usize {
    const LEAST: usize = 1 << 25;
    const FEWEST_TOKENS: usize = 16;
    let numbers = LEAST.max(hidden.saturating_mul(vocabulary) / 4);
    (numbers / models.max(1) / vocabulary.max(1)).max(FEWEST_TOKENS)
}

/// The losses of many tokens, in f64. The mean is `total / weight`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Sum of weight x loss over the tokens, in nats.
    pub total: f64,
    /// Sum of the weights.
    pub weight: f64,
}

/// Hidden states and the output projection that turns them into logits: l = x wᵀ.
#[derive(Clone, Copy, Debug)]
pub struct Projection<'a> {
    /// Hidden states `[N, H]`.
    pub x: &'a [f32],
    /// Projection `[V, H]`.
    pub w: &'a [f32],
}

/// The axes of a projection, derived from the lengths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axes {
    pub(crate) hidden: usize,
    pub(crate) vocabulary: usize,
}

impl Projection<'_> {
    /// The axes, given the number of tokens (not 0). Panics when the lengths are no multiples.
    #[track_caller]
    pub(crate) fn axes(&self, tokens: usize) -> Axes {
        let hidden = self.x.len() / tokens;
        check::len("x [N, H]", self.x, tokens * hidden);
        assert!(hidden > 0, "`x [N, H]` is empty");
        let vocabulary = self.w.len() / hidden;
        check::len("w [V, H]", self.w, vocabulary * hidden);
        assert!(vocabulary > 0, "`w [V, H]` is empty");
        Axes { hidden, vocabulary }
    }

    /// The rows of x for `tokens`, borrowed where they lie side by side.
    pub(crate) fn rows(&self, tokens: &[usize], hidden: usize) -> Cow<'_, [f32]> {
        match contiguous(tokens) {
            Some(range) => Cow::Borrowed(&self.x[range.start * hidden..range.end * hidden]),
            None => Cow::Owned(
                tokens
                    .iter()
                    .flat_map(|&n| &self.x[n * hidden..][..hidden])
                    .copied()
                    .collect(),
            ),
        }
    }
}

/// The tokens that count (weight other than 0), in order.
pub(crate) fn counted(token_weights: &[f32]) -> Vec<usize> {
    (0..token_weights.len()).filter(|&n| token_weights[n] != 0.0).collect()
}

/// Splits `tokens` into chunks of nearly equal size, for logits of `models` models ([`tokens_at_once`]).
pub(crate) fn chunks(tokens: &[usize], axes: Axes, models: usize) -> std::slice::Chunks<'_, usize> {
    let most = tokens_at_once(axes.hidden, axes.vocabulary, models);
    let count = tokens.len().div_ceil(most).max(1);
    tokens.chunks(tokens.len().div_ceil(count).max(1))
}

/// The same chunks from the last to the first, each with whether it is the last: its logits are there, as the forward pass has ended with them.
pub(crate) fn chunks_from_last(tokens: &[usize], axes: Axes, models: usize) -> impl Iterator<Item = (&[usize], bool)> {
    let chunks = chunks(tokens, axes, models).rev().enumerate();
    chunks.map(|(behind, chunk)| (chunk, behind == 0))
}

/// `out [C, V]` = the logits of the rows `x [C, H]`, `out` grown or cut to size.
pub(crate) fn project(axes: Axes, x: &[f32], w: &[f32], out: &mut Vec<f32>) {
    let rows = x.len() / axes.hidden;
    out.resize(rows * axes.vocabulary, 0.0);
    matmul::nt(rows, axes.vocabulary, axes.hidden, x, w, out, Accumulate::Overwrite);
}

/// Gradients of a loss that the forward pass has found while the logits were there: those of `scale` times the weighted sum.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ahead {
    scale: f32,
    /// Of the hidden states `[N, H]`.
    x: Vec<f32>,
    /// Of the projection `[V, H]`.
    w: Vec<f32>,
}

impl Ahead {
    /// Zeros to add to, of the mean over the weights of these tokens. None where that is none, or where all logits fit in one chunk, so that backward begins
    /// with all of them there.
    pub(crate) fn of_mean(
        projection: Projection<'_>,
        tokens: &[usize],
        token_weights: &[f32],
        models: usize,
    ) -> Option<Self> {
        let weight: f64 = tokens.iter().map(|&token| f64::from(token_weights[token])).sum();
        if weight <= 0.0 || !weight.is_finite() {
            return None;
        }
        let Axes { hidden, vocabulary } = projection.axes(token_weights.len());
        (tokens.len() > tokens_at_once(hidden, vocabulary, models)).then(|| Self {
            scale: (1.0 / weight) as f32,
            x: vec![0.0; projection.x.len()],
            w: vec![0.0; projection.w.len()],
        })
    }

    /// What the weighted sum is multiplied by.
    pub(crate) fn scale(&self) -> f32 {
        self.scale
    }

    /// Adds what a chunk's logits give, of which this is the gradient times [`Self::scale`].
    pub(crate) fn add(&mut self, axes: Axes, tokens: &[usize], x: &[f32], w: &[f32], grad_logits: &[f32]) {
        project_backward(axes, tokens, x, w, grad_logits, &mut self.x, &mut self.w);
    }

    /// Adds the gradients of `scale` times the weighted sum.
    pub(crate) fn pass_on(self, scale: f32, grad_x: &mut [f32], grad_w: &mut [f32]) {
        // exactly 1 where the mean is what is differentiated
        let factor = scale / self.scale;
        elementwise::axpy(factor, &self.x, grad_x);
        elementwise::axpy(factor, &self.w, grad_w);
    }
}

/// Passes the gradient of a chunk's logits on to the hidden states and the projection.
pub(crate) fn project_backward(
    axes: Axes,
    tokens: &[usize],
    x: &[f32],
    w: &[f32],
    grad_logits: &[f32],
    grad_x: &mut [f32],
    grad_w: &mut [f32],
) {
    let Axes { hidden, vocabulary } = axes;
    let rows = tokens.len();
    matmul::tn(vocabulary, hidden, rows, grad_logits, x, grad_w, Accumulate::Add);
    if let Some(range) = contiguous(tokens) {
        let grad_x = &mut grad_x[range.start * hidden..range.end * hidden];
        matmul::nn(rows, hidden, vocabulary, grad_logits, w, grad_x, Accumulate::Add);
        return;
    }
    let mut to_rows = vec![0.0; rows * hidden];
    matmul::nn(
        rows,
        hidden,
        vocabulary,
        grad_logits,
        w,
        &mut to_rows,
        Accumulate::Overwrite,
    );
    for (&token, row) in tokens.iter().zip(to_rows.chunks_exact(hidden)) {
        grad_x[token * hidden..][..hidden]
            .iter_mut()
            .zip(row)
            .for_each(|(to, &from)| *to += from);
    }
}

/// Calls `work(i, row)` for each row of a chunk's logits and collects what it returns.
pub(crate) fn map_rows<R: Send>(
    logits: &mut [f32],
    vocabulary: usize,
    work: impl Fn(usize, &mut [f32]) -> R + Send + Sync,
) -> Vec<R> {
    let rows_at_once = (2 * PIECE / vocabulary).max(1);
    let rows = logits
        .par_chunks_exact_mut(vocabulary)
        .enumerate()
        .with_min_len(rows_at_once);
    rows.map(|(i, row)| work(i, row)).collect()
}

/// ln(sum of e^l) over a row; NaN if one is NaN.
pub(crate) fn log_sum_exp(row: &[f32]) -> f32 {
    dispatch(
        #[inline(always)]
        || {
            let max = lanes::max(row);
            let sum = lanes::sum_of(row, |l| exp(l - max));
            (f64::from(max) + sum.ln()) as f32
        },
    )
}

fn contiguous(tokens: &[usize]) -> Option<Range<usize>> {
    let (&first, &last) = (tokens.first()?, tokens.last()?);
    // The tokens are in ascending order without repetition.
    (last - first + 1 == tokens.len()).then_some(first..last + 1)
}
