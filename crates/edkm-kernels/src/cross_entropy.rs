//! Output projection and cross-entropy together, in chunks of tokens.
//!
//! Only the log-sum-exp of each token is kept for the backward pass, which computes the logits again. Tokens of weight 0
//! (a prompt, padding) cost nothing: they are left out of the products.
//!
//! Memory: logits of one chunk, at most 64 MiB or 16 x V x 4 bytes, and the hidden states of its tokens when they do not
//! lie side by side.

use crate::{
    check,
    elementwise::exp,
    lanes::dispatch,
    logits::{self, map_rows, Axes},
};

pub use crate::logits::{Losses, Projection};

/// The cross-entropy of each token's target, weighted and summed; `lse [N]` receives the log-sum-exp of each token's logits
/// (0 where the weight is 0).
///
/// `x [N, H]`, `w [V, H]`, `targets [N]`, `token_weights [N]`.
///
/// # Panics
///
/// If lengths do not match, or the target of a token with a weight is not below V.
pub fn forward(x: &[f32], w: &[f32], targets: &[u32], token_weights: &[f32], lse: &mut [f32]) -> Losses {
    check::len("token_weights [N]", token_weights, targets.len());
    check::len("lse [N]", lse, targets.len());
    lse.fill(0.0);
    let mut losses = Losses::default();
    for_each_token(
        x,
        w,
        targets,
        &logits::counted(token_weights),
        |token, logit, log_sum_exp| {
            let weight = f64::from(token_weights[token]);
            losses.weight += weight;
            losses.total += weight * (f64::from(log_sum_exp) - f64::from(logit));
            lse[token] = log_sum_exp;
        },
    );
    losses
}

/// Adds the gradient of `scale` x `total` to `grad_x [N, H]` and `grad_w [V, H]`; the other arguments as in [`forward`],
/// `lse` as it left it. For a mean, `scale` is the upstream gradient over `weight`.
///
/// # Panics
///
/// As [`forward`].
pub fn backward(
    x: &[f32],
    w: &[f32],
    targets: &[u32],
    token_weights: &[f32],
    lse: &[f32],
    scale: f32,
    grad_x: &mut [f32],
    grad_w: &mut [f32],
) {
    check::len("token_weights [N]", token_weights, targets.len());
    check::len("lse [N]", lse, targets.len());
    check::len("grad_x [N, H]", grad_x, x.len());
    check::len("grad_w [V, H]", grad_w, w.len());
    let tokens = logits::counted(token_weights);
    if tokens.is_empty() {
        return;
    }
    let projection = Projection { x, w };
    let axes = projection.axes(targets.len());
    check_targets(targets, &tokens, axes);
    let mut buffer = Vec::new();
    for chunk in logits::chunks(&tokens, axes.vocabulary, 1) {
        let rows = projection.rows(chunk, axes.hidden);
        logits::project(axes, &rows, w, &mut buffer);
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

/// The log-likelihood of each target: `out [N]`, in nats. `x [N, H]`, `w [V, H]`, `targets [N]`.
///
/// # Panics
///
/// If lengths do not match, or a target is not below V.
pub fn token_log_likelihoods(x: &[f32], w: &[f32], targets: &[u32], out: &mut [f32]) {
    check::len("out [N]", out, targets.len());
    let tokens: Vec<usize> = (0..targets.len()).collect();
    for_each_token(x, w, targets, &tokens, |token, logit, log_sum_exp| {
        out[token] = logit - log_sum_exp
    });
}

/// Calls `each(token, logit of its target, log-sum-exp)` for `tokens` in order.
fn for_each_token(x: &[f32], w: &[f32], targets: &[u32], tokens: &[usize], mut each: impl FnMut(usize, f32, f32)) {
    if tokens.is_empty() {
        return;
    }
    let projection = Projection { x, w };
    let axes = projection.axes(targets.len());
    check_targets(targets, tokens, axes);
    let mut buffer = Vec::new();
    for chunk in logits::chunks(tokens, axes.vocabulary, 1) {
        logits::project(axes, &projection.rows(chunk, axes.hidden), w, &mut buffer);
        let found = map_rows(&mut buffer, axes.vocabulary, |i, row| {
            (row[targets[chunk[i]] as usize], logits::log_sum_exp(row))
        });
        for (&token, (logit, log_sum_exp)) in chunk.iter().zip(found) {
            each(token, logit, log_sum_exp);
        }
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
