//! Output projection and cross-entropy together, in chunks of tokens.
//!
//! The log-sum-exp of each token is kept for the backward pass, and the logits of the last chunk, with which that begins; it computes
//! those of the other chunks again. Tokens of weight 0 (a prompt, padding) cost nothing: they are left out of the products.
//!
//! Memory, in both passes and between them: logits of one chunk ([`tokens_at_once`]), and in the passes the hidden states of its tokens when they
//! do not lie side by side.

use crate::{
    check,
    elementwise::exp,
    lanes::dispatch,
    logits::{self, map_rows, Axes},
};

pub use crate::logits::{tokens_at_once, Losses, Projection};

/// What [`forward`] leaves for [`backward`].
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Log-sum-exp of each token's logits `[N]`, 0 where the weight is 0.
    pub lse: Vec<f32>,
    /// Logits of the last chunk.
    last: Vec<f32>,
}

/// The cross-entropy of each token's target, weighted and summed.
///
/// `x [N, H]`, `w [V, H]`, `targets [N]`, `token_weights [N]`.
///
/// # Panics
///
/// If lengths do not match, or the target of a token with a weight is not below V.
pub fn forward(x: &[f32], w: &[f32], targets: &[u32], token_weights: &[f32]) -> (Losses, Kept) {
    check::len("token_weights [N]", token_weights, targets.len());
    let (mut losses, mut lse, mut buffer) = (Losses::default(), vec![0.0; targets.len()], Vec::new());
    let tokens = logits::counted(token_weights);
    if tokens.is_empty() {
        return (losses, Kept { lse, last: buffer });
    }
    let projection = Projection { x, w };
    let axes = projection.axes(targets.len());
    check_targets(targets, &tokens, axes);
    for chunk in logits::chunks(&tokens, axes, 1) {
        logits::project(axes, &projection.rows(chunk, axes.hidden), w, &mut buffer);
        let found = map_rows(&mut buffer, axes.vocabulary, |i, row| {
            (row[targets[chunk[i]] as usize], logits::log_sum_exp(row))
        });
        for (&token, (logit, log_sum_exp)) in chunk.iter().zip(found) {
            let weight = f64::from(token_weights[token]);
            losses.weight += weight;
            losses.total += weight * (f64::from(log_sum_exp) - f64::from(logit));
            lse[token] = log_sum_exp;
        }
    }
    (losses, Kept { lse, last: buffer })
}

/// Adds the gradient of `scale` x `total` to `grad_x [N, H]` and `grad_w [V, H]`; the other arguments as in [`forward`],
/// `kept` as it left it. For a mean, `scale` is the upstream gradient over `weight`.
///
/// # Panics
///
/// As [`forward`].
pub fn backward(
    x: &[f32],
    w: &[f32],
    targets: &[u32],
    token_weights: &[f32],
    kept: Kept,
    scale: f32,
    grad_x: &mut [f32],
    grad_w: &mut [f32],
) {
    check::len("token_weights [N]", token_weights, targets.len());
    check::len("lse [N]", &kept.lse, targets.len());
    check::len("grad_x [N, H]", grad_x, x.len());
    check::len("grad_w [V, H]", grad_w, w.len());
    let tokens = logits::counted(token_weights);
    if tokens.is_empty() {
        return;
    }
    let projection = Projection { x, w };
    let axes = projection.axes(targets.len());
    check_targets(targets, &tokens, axes);
    let Kept { lse, last: mut buffer } = kept;
    for (chunk, there) in logits::chunks_from_last(&tokens, axes, 1) {
        let rows = projection.rows(chunk, axes.hidden);
        if there {
            check::len("logits of the last chunk", &buffer, chunk.len() * axes.vocabulary);
        } else {
            logits::project(axes, &rows, w, &mut buffer);
        }
        map_rows(&mut buffer, axes.vocabulary, |i, row| {
            let token = chunk[i];
            let (weight, lse) = (scale * token_weights[token], lse[token]);
            dispatch(
                #[inline(always)]
                || row.iter_mut().for_each(|l| *l = weight * exp(*l - lse)),
            );
            row[targets[token] as usize] -= weight;
        });
        logits::project_backward(axes, chunk, &rows, w, &buffer, grad_x, grad_w);
    }
}

#[track_caller]
fn check_targets(targets: &[u32], tokens: &[usize], axes: Axes) {
    if let Some(&token) = tokens.iter().find(|&&token| targets[token] as usize >= axes.vocabulary) {
        panic!(
            "target {} of token {token} is beyond a vocabulary of {}",
            targets[token], axes.vocabulary
        );
    }
}

#[cfg(test)]
mod tests;
