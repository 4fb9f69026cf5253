use super::*;
use crate::testing::{assert_close, assert_same_for_any_pool, central_differences, random, wide};

struct Problem {
    x: Vec<f32>,
    w: Vec<f32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

/// Every third token without weight, unless `all` of them count.
fn problem(tokens: usize, hidden: usize, vocabulary: usize, ignored: fn(usize) -> bool) -> Problem {
    Problem {
        x: random(1, tokens * hidden).into_iter().map(|x| 2.0 * x).collect(),
        w: random(2, vocabulary * hidden),
        targets: random(3, tokens)
            .into_iter()
            .map(|x| ((x + 1.0) * 0.49999 * vocabulary as f32) as u32)
            .collect(),
        weights: random(4, tokens)
            .into_iter()
            .enumerate()
            .map(|(n, weight)| if ignored(n) { 0.0 } else { weight + 1.5 })
            .collect(),
    }
}

/// (log-sum-exp, negative log-likelihood) of each token.
fn reference(x: &[f64], w: &[f64], targets: &[u32]) -> Vec<(f64, f64)> {
    let hidden = x.len() / targets.len();
    let rows = x.chunks_exact(hidden).zip(targets);
    rows.map(|(x, &target)| {
        let logits: Vec<f64> = w
            .chunks_exact(hidden)
            .map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum())
            .collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
        (lse, lse - logits[target as usize])
    })
    .collect()
}

const IGNORED: [fn(usize) -> bool; 3] = [|_| false, |n| n % 3 == 1, |n| n < 4];

#[test]
fn forward_agrees_with_the_definition() {
    for ignored in IGNORED {
        for (tokens, hidden, vocabulary) in [(7, 5, 11), (40, 64, 512), (20, 3, 2_000_000 / 64)] {
            let p = problem(tokens, hidden, vocabulary, ignored);
            let (losses, kept) = forward(&p.x, &p.w, &p.targets, &p.weights);
            let expected = reference(&wide(&p.x), &wide(&p.w), &p.targets);
            let total: f64 = expected
                .iter()
                .zip(&p.weights)
                .map(|((_, nll), &weight)| nll * f64::from(weight))
                .sum();
            let weight: f64 = p.weights.iter().map(|&weight| f64::from(weight)).sum();
            // Rounding of the logits in f32.
            assert!(
                (losses.total - total).abs() <= 1e-6 * total.abs(),
                "{losses:?}, expected {total}"
            );
            assert!((losses.weight - weight).abs() <= 1e-12 * weight);
            let lse_expected: Vec<f64> = expected
                .iter()
                .zip(&p.weights)
                .map(|((lse, _), &weight)| if weight == 0.0 { 0.0 } else { *lse })
                .collect();
            assert_close("lse", &kept.lse, &lse_expected, 2e-6);
        }
    }
}

#[test]
fn backward_agrees_with_differences_and_adds() {
    for ignored in IGNORED {
        let p = problem(7, 5, 11, ignored);
        let (_, kept) = forward(&p.x, &p.w, &p.targets, &p.weights);
        let (mut to_x, mut to_w) = (vec![1.0; p.x.len()], vec![-1.0; p.w.len()]);
        backward(&p.x, &p.w, &p.targets, &p.weights, kept, 0.25, &mut to_x, &mut to_w);
        let loss = |x: &[f64], w: &[f64]| -> f64 {
            let tokens = reference(x, w, &p.targets);
            tokens
                .iter()
                .zip(&p.weights)
                .map(|((_, nll), &weight)| 0.25 * nll * f64::from(weight))
                .sum()
        };
        let by_x = central_differences(&wide(&p.x), |x| loss(x, &wide(&p.w)));
        let by_w = central_differences(&wide(&p.w), |w| loss(&wide(&p.x), w));
        assert_close("x", &to_x, &by_x.iter().map(|g| g + 1.0).collect::<Vec<_>>(), 2e-6);
        assert_close("w", &to_w, &by_w.iter().map(|g| g - 1.0).collect::<Vec<_>>(), 2e-6);
    }
}

#[test]
fn chunks_do_not_change_sum_and_gradients() {
    // More logits than one chunk holds: two chunks.
    let (tokens, hidden, vocabulary) = (20, 2, 1 << 21);
    let p = problem(tokens, hidden, vocabulary, |_| false);
    let gradients = |kept| {
        let (mut to_x, mut to_w) = (vec![0.0; p.x.len()], vec![0.0; p.w.len()]);
        backward(&p.x, &p.w, &p.targets, &p.weights, kept, 0.5, &mut to_x, &mut to_w);
        (to_x, to_w)
    };
    let (losses, kept) = forward(&p.x, &p.w, &p.targets, &p.weights);
    let (ahead_losses, ahead) = forward_ahead(&p.x, &p.w, &p.targets, &p.weights);
    assert_eq!((losses, &kept.lse), (ahead_losses, &ahead.lse));
    assert!(
        ahead.ahead.is_some() && ahead.last.is_empty(),
        "nothing was found ahead"
    );
    let (again, ahead) = (gradients(kept), gradients(ahead));

    let (x, w) = (wide(&p.x), wide(&p.w));
    let (mut total, mut by_x, mut by_w) = (0.0, vec![0.0; x.len()], vec![0.0; w.len()]);
    for (n, (lse, nll)) in reference(&x, &w, &p.targets).into_iter().enumerate() {
        let (x, by_x) = (&x[n * hidden..][..hidden], &mut by_x[n * hidden..][..hidden]);
        let weight = f64::from(p.weights[n]);
        total += weight * nll;
        for (v, (w, by_w)) in w.chunks_exact(hidden).zip(by_w.chunks_exact_mut(hidden)).enumerate() {
            let logit: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
            let by_logit = 0.5 * weight * ((logit - lse).exp() - f64::from(v as u32 == p.targets[n]));
            for h in 0..hidden {
                by_x[h] += by_logit * w[h];
                by_w[h] += by_logit * x[h];
            }
        }
    }
    assert!(
        (losses.total - total).abs() <= 1e-6 * total,
        "{losses:?}, expected {total}"
    );
    for (to_x, to_w) in [again, ahead] {
        // sums of 2^21 terms in f32
        assert_close("x", &to_x, &by_x, 1e-5);
        assert_close("w", &to_w, &by_w, 2e-6);
    }
}

#[test]
fn of_one_chunk_nothing_is_found_ahead() {
    let p = problem(7, 5, 11, |n| n == 2);
    let again = forward(&p.x, &p.w, &p.targets, &p.weights);
    assert_eq!(again, forward_ahead(&p.x, &p.w, &p.targets, &p.weights));
}

#[test]
fn no_token_counts() {
    let p = problem(3, 2, 4, |_| true);
    let (losses, kept) = forward(&p.x, &p.w, &p.targets, &p.weights);
    assert_eq!(losses, Losses::default());
    let (mut to_x, mut to_w) = (vec![0.0; 6], vec![0.0; 8]);
    backward(&p.x, &p.w, &p.targets, &p.weights, kept, 1.0, &mut to_x, &mut to_w);
    assert_eq!((to_x, to_w), (vec![0.0; 6], vec![0.0; 8]));
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let p = problem(150, 64, 700, |n| n % 5 == 0);
    assert_same_for_any_pool("cross-entropy", || {
        let (losses, kept) = forward(&p.x, &p.w, &p.targets, &p.weights);
        let lse = kept.lse.clone();
        let (mut to_x, mut to_w) = (vec![0.0; p.x.len()], vec![0.0; p.w.len()]);
        backward(&p.x, &p.w, &p.targets, &p.weights, kept, 0.1, &mut to_x, &mut to_w);
        let total = losses.total.to_bits();
        to_x.extend(to_w);
        to_x.extend(lse);
        to_x.extend([f32::from_bits((total >> 32) as u32), f32::from_bits(total as u32)]);
        to_x
    });
}

#[test]
#[should_panic(expected = "target 4 of token 1 is beyond a vocabulary of 4")]
fn a_target_beyond_the_vocabulary_is_named() {
    forward(&[0.0; 4], &[0.0; 8], &[3, 4], &[1.0; 2]);
}
