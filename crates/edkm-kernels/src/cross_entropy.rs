//! Output projection and cross-entropy together, in chunks of tokens.
//!
//! [`forward`] keeps the log-sum-exp of each token for the backward pass, and the logits of the last chunk, with which that begins; it computes
//! those of the other chunks again. [`forward_ahead`] finds the gradients of each chunk while its logits are there, so that none is computed twice: 6 products of
//! the projection's size in place of 8. Tokens of weight 0 (a prompt, padding) cost nothing: they are left out of the products.
//!
//! Memory, in both passes and between them: logits of one chunk ([`tokens_at_once`]), and in the passes the hidden states of its tokens when they
//! do not lie side by side; of gradients that were found ahead as much as of those that they are added to.

use crate::{
    check,
    elementwise::exp,
    lanes::dispatch,
    logits::{self, map_rows, Ahead, Axes},
};

pub use crate::logits::{tokens_at_once, Losses, Projection};

/// What [`forward`] leaves for [`backward`].
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Log-sum-exp of each token's logits `[N]`, 0 where the weight is 0.
    pub lse: Vec<f32>,
    /// Logits of the last chunk; none where gradients were found ahead.
    last: Vec<f32>,
    ahead: Option<Ahead>,
}

/// The cross-entropy of each token's target, weighted and summed.
///
/// `x [N, H]`, `w [V, H]`, `targets [N]`, `token_weights [N]`.
///
/// # Panics
///
/// If lengths do not match, or the target of a token with a weight is not below V.
pub fn forward(x: &[f32], w: &[f32], targets: &[u32], token_weights: &[f32]) -> (Losses, Kept) {
    forward_with(x, w, targets, token_weights, false)
}

/// [`forward`] for a backward pass that follows: where there is more than one chunk it has found the gradients already.
///
/// # Panics
///
/// As [`forward`].
pub fn forward_ahead(x: &[f32], w: &[f32], targets: &[u32], token_weights: &[f32]) -> (Losses, Kept) {
    forward_with(x, w, targets, token_weights, true)
}

fn forward_with(
    x: &[f32],
    w: &[f32],
    targets: &[u32],
    token_weights: &[f32],
    backward_follows: bool,
) -> (Losses, Kept) {
    check::len("token_weights [N]", token_weights, targets.len());
    let (mut losses, mut buffer) = (Losses::default(), Vec::new());
    let mut kept = Kept {
        lse: vec![0.0; targets.len()],
        last: Vec::new(),
        ahead: None,
    };
    let tokens = logits::counted(token_weights);
    if tokens.is_empty() {
        return (losses, kept);
    }
    let projection = Projection { x, w };
    let axes = projection.axes(targets.len());
    check_targets(targets, &tokens, axes);
    if backward_follows {
        kept.ahead = Ahead::of_mean(projection, &tokens, token_weights, 1);
    }
    let Kept { lse, ahead, .. } = &mut kept;
    for chunk in logits::chunks(&tokens, axes, 1) {
        let rows = projection.rows(chunk, axes.hidden);
        logits::project(axes, &rows, w, &mut buffer);
        let scale = ahead.as_ref().map(Ahead::scale);
        let found = map_rows(&mut buffer, axes.vocabulary, |i, row| {
            let token = chunk[i];
            let found = (row[targets[token] as usize], logits::log_sum_exp(row));
            if let Some(scale) = scale {
                to_gradient(row, targets[token], scale * token_weights[token], found.1);
            }
            found
        });
        if let Some(ahead) = ahead {
            ahead.add(axes, chunk, &rows, w, &buffer);
        }
        for (&token, (logit, log_sum_exp)) in chunk.iter().zip(found) {
            let weight = f64::from(token_weights[token]);
            losses.weight += weight;
            losses.total += weight * (f64::from(log_sum_exp) - f64::from(logit));
            lse[token] = log_sum_exp;
        }
    }
    if kept.ahead.is_none() {
        kept.last = buffer;
    }
    (losses, kept)
}

/// The gradient of the logits of a token that counts as much as `weight` says, in their place.
fn to_gradient(row: &mut [f32], target: u32, weight: f32, lse: f32) {
    dispatch(
        #[inline(always)]
        || row.iter_mut().for_each(|l| *l = weight * exp(*l - lse)),
    );
    row[target as usize] -= weight;
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
    let Kept {
        lse,
        last: mut buffer,
        ahead,
    } = kept;
    if let Some(ahead) = ahead {
        return ahead.pass_on(scale, grad_x, grad_w);
    }
    for (chunk, there) in logits::chunks_from_last(&tokens, axes, 1) {
        let rows = projection.rows(chunk, axes.hidden);
        if there {
            check::len("logits of the last chunk", &buffer, chunk.len() * axes.vocabulary);
        } else {
            logits::project(axes, &rows, w, &mut buffer);
        }
        map_rows(&mut buffer, axes.vocabulary, |i, row| {
            let token = chunk[i];
            to_gradient(row, targets[token], scale * token_weights[token], lse[token]);
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
