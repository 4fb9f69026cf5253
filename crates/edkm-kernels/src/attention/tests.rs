use super::*;
use crate::testing::{assert_close, assert_same_for_any_pool, central_differences, random, wide};

fn dims(batch: usize, seq: usize, heads: usize, kv_heads: usize, head_dim: usize) -> Dims {
    Dims {
        batch,
        seq,
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
    }
}

/// Output `[B, S, A, D]` and log-sum-exp `[B, A, S]` by the definition.
fn reference(dims: Dims, q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let d = dims.head_dim;
    let (mut out, mut lse) = (vec![0.0; dims.query_len()], vec![0.0; dims.lse_len()]);
    for b in 0..dims.batch {
        for a in 0..dims.heads {
            for s in 0..dims.seq {
                let q = &q[dims.query_at(b, s, a)..][..d];
                let key = |t| dims.key_at(b, t, a / dims.group());
                let scores: Vec<f64> = (0..=s)
                    .map(|t| q.iter().zip(&k[key(t)..]).map(|(q, k)| q * k).sum::<f64>() * f64::from(dims.scale))
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total = max + scores.iter().map(|score| (score - max).exp()).sum::<f64>().ln();
                lse[(b * dims.heads + a) * dims.seq + s] = total;
                for (t, score) in scores.iter().enumerate() {
                    for i in 0..d {
                        out[dims.query_at(b, s, a) + i] += (score - total).exp() * v[key(t) + i];
                    }
                }
            }
        }
    }
    (out, lse)
}

struct Problem {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    grad_out: Vec<f32>,
}

/// Scores of some size, so that softmax is far from uniform.
fn problem(dims: Dims) -> Problem {
    let grow = |x: Vec<f32>| x.into_iter().map(|x| 3.0 * x).collect();
    Problem {
        q: grow(random(1, dims.query_len())),
        k: grow(random(2, dims.key_len())),
        v: random(3, dims.key_len()),
        grad_out: random(4, dims.query_len()),
    }
}

/// Within one tile, exactly tiles, across tiles; one to three query heads for a key/value head; odd head sizes.
fn shapes() -> Vec<Dims> {
    vec![
        dims(1, 1, 1, 1, 1),
        dims(2, 5, 2, 1, 3),
        dims(1, 64, 1, 1, 8),
        dims(2, 65, 6, 2, 8),
        dims(1, 128, 2, 2, 17),
        dims(1, 200, 3, 1, 20),
        dims(1, 131, 2, 1, 128),
    ]
}

#[test]
fn forward_agrees_with_the_definition() {
    for dims in shapes() {
        let p = problem(dims);
        let (mut out, mut lse) = (vec![f32::NAN; dims.query_len()], vec![f32::NAN; dims.lse_len()]);
        forward(&dims, &p.q, &p.k, &p.v, &mut out, &mut lse);
        let (expected, expected_lse) = reference(dims, &wide(&p.q), &wide(&p.k), &wide(&p.v));
        // Scores up to 40 have a rounding error of 2e-6, which their exponentials inherit.
        assert_close(&format!("{dims:?}"), &out, &expected, 6e-6);
        assert_close(&format!("{dims:?} lse"), &lse, &expected_lse, 2e-6);
    }
}

/// Gradients of q, k and v by the chain rule in f64, one after the other.
fn reference_backward(dims: Dims, q: &[f64], k: &[f64], v: &[f64], grad_out: &[f64]) -> [Vec<f64>; 3] {
    let d = dims.head_dim;
    let scale = f64::from(dims.scale);
    let (out, lse) = reference(dims, q, k, v);
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let [mut to_q, mut to_k, mut to_v] = [vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; k.len()]];
    for b in 0..dims.batch {
        for a in 0..dims.heads {
            for s in 0..dims.seq {
                let at = dims.query_at(b, s, a);
                let (q, grad) = (&q[at..][..d], &grad_out[at..][..d]);
                let delta = dot(grad, &out[at..][..d]);
                for t in 0..=s {
                    let key = dims.key_at(b, t, a / dims.group());
                    let p = (dot(q, &k[key..][..d]) * scale - lse[(b * dims.heads + a) * dims.seq + s]).exp();
                    let ds = p * (dot(grad, &v[key..][..d]) - delta) * scale;
                    for i in 0..d {
                        to_q[at + i] += ds * k[key + i];
                        to_k[key + i] += ds * q[i];
                        to_v[key + i] += p * grad[i];
                    }
                }
            }
        }
    }
    [to_q, to_k, to_v]
}

#[test]
fn the_reference_agrees_with_differences() {
    let dims = dims(1, 4, 2, 1, 3);
    let p = problem(dims);
    let (q, k, v, grad_out) = (wide(&p.q), wide(&p.k), wide(&p.v), wide(&p.grad_out));
    let loss = |q: &[f64], k: &[f64], v: &[f64]| -> f64 {
        reference(dims, q, k, v)
            .0
            .iter()
            .zip(&grad_out)
            .map(|(out, grad)| out * grad)
            .sum()
    };
    let got = reference_backward(dims, &q, &k, &v, &grad_out);
    let differences = [
        central_differences(&q, |q| loss(q, &k, &v)),
        central_differences(&k, |k| loss(&q, k, &v)),
        central_differences(&v, |v| loss(&q, &k, v)),
    ];
    for (got, differences) in got.iter().zip(&differences) {
        for (got, difference) in got.iter().zip(differences) {
            assert!((got - difference).abs() <= 1e-8, "{got} and {difference}");
        }
    }
}

#[test]
fn backward_agrees_with_the_reference_and_adds() {
    for dims in shapes() {
        let p = problem(dims);
        let (mut out, mut lse) = (vec![0.0; dims.query_len()], vec![0.0; dims.lse_len()]);
        forward(&dims, &p.q, &p.k, &p.v, &mut out, &mut lse);
        let mut got = [
            vec![1.0; dims.query_len()],
            vec![-1.0; dims.key_len()],
            vec![0.5; dims.key_len()],
        ];
        let [to_q, to_k, to_v] = &mut got;
        backward(&dims, &p.q, &p.k, &p.v, &out, &lse, &p.grad_out, to_q, to_k, to_v);
        let expected = reference_backward(dims, &wide(&p.q), &wide(&p.k), &wide(&p.v), &wide(&p.grad_out));
        for ((what, before), (got, expected)) in [("q", 1.0), ("k", -1.0), ("v", 0.5)]
            .into_iter()
            .zip(got.iter().zip(&expected))
        {
            let expected: Vec<f64> = expected.iter().map(|g| g + before).collect();
            // As forward's, times gradients of about 5.
            assert_close(&format!("{dims:?} {what}"), got, &expected, 3e-5);
        }
    }
}

#[test]
fn do_not_depend_on_the_number_of_threads() {
    for dims in [dims(1, 300, 2, 1, 16), dims(3, 100, 6, 3, 8)] {
        let p = problem(dims);
        assert_same_for_any_pool(&format!("{dims:?}"), || {
            let (mut out, mut lse) = (vec![0.0; dims.query_len()], vec![0.0; dims.lse_len()]);
            forward(&dims, &p.q, &p.k, &p.v, &mut out, &mut lse);
            let [mut to_q, mut to_k, mut to_v] =
                [dims.query_len(), dims.key_len(), dims.key_len()].map(|n| vec![0.0; n]);
            backward(
                &dims,
                &p.q,
                &p.k,
                &p.v,
                &out,
                &lse,
                &p.grad_out,
                &mut to_q,
                &mut to_k,
                &mut to_v,
            );
            [out, lse, to_q, to_k, to_v].concat()
        });
    }
}

#[test]
fn a_step_of_generation_is_the_last_row_of_forward() {
    for dims in [dims(2, 7, 4, 2, 6), dims(1, 700, 4, 1, 64)] {
        let p = problem(dims);
        let (mut out, mut lse) = (vec![0.0; dims.query_len()], vec![0.0; dims.lse_len()]);
        forward(&dims, &p.q, &p.k, &p.v, &mut out, &mut lse);
        let width = dims.heads * dims.head_dim;
        let last = |x: &[f32]| -> Vec<f32> {
            (0..dims.batch)
                .flat_map(|b| x[dims.query_at(b, dims.seq - 1, 0)..][..width].to_vec())
                .collect()
        };
        // A cache with room to spare, filled with NaN.
        let capacity = dims.seq + 3;
        let cache = |x: &[f32]| -> Vec<f32> {
            let spare = vec![f32::NAN; 3 * dims.key_stride()];
            x.chunks_exact(dims.seq * dims.key_stride())
                .flat_map(|x| [x, &spare].concat())
                .collect()
        };
        let mut got = vec![f32::NAN; dims.batch * width];
        decode_step(&dims, &last(&p.q), &cache(&p.k), &cache(&p.v), capacity, &mut got);
        // Two ways of rounding scores of up to 40.
        assert_close(&format!("{dims:?}"), &got, &wide(&last(&out)), 1e-5);
    }
}

#[test]
#[should_panic(expected = "3 query heads cannot share 2 key/value heads evenly")]
fn uneven_groups_are_refused() {
    let dims = dims(1, 1, 3, 2, 1);
    forward(&dims, &[0.0; 3], &[0.0; 2], &[0.0; 2], &mut [0.0; 3], &mut [0.0; 3]);
}
