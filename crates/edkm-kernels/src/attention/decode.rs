//! One query against a cache of keys and values, as in generation.

use super::Dims;
use crate::{
    check,
    elementwise::exp,
    lanes::{self, dispatch, dot},
    parallel,
};

/// Multiply-adds below which one thread does the whole step.
const SERIAL: usize = 1 << 16;

/// `out [B, A, D]` = attention of one query for each sequence, `q [B, A, D]`, over the first `dims.seq` positions of a
/// cache, `k` and `v` [B, `capacity`, G, D]. The query's own key and value are in the cache already.
///
/// # Panics
///
/// If a slice's length does not match the axes, the cache is shorter than `dims.seq`, or the key/value heads do not divide
/// the query heads.
pub fn decode_step(dims: &Dims, q: &[f32], k: &[f32], v: &[f32], capacity: usize, out: &mut [f32]) {
    assert!(
        dims.seq <= capacity,
        "{} positions are asked of a cache of {capacity}",
        dims.seq
    );
    let cache = Dims { seq: capacity, ..*dims };
    let one = Dims { seq: 1, ..*dims };
    check::len("q [B, A, D]", q, one.query_len());
    check::len("out [B, A, D]", out, one.query_len());
    check::len("k [B, capacity, G, D]", k, cache.key_len());
    check::len("v [B, capacity, G, D]", v, cache.key_len());
    one.check(q, &k[..one.key_len()], &v[..one.key_len()]);
    if out.is_empty() {
        return;
    }
    let heads_at_once = if one.query_len() * dims.seq < SERIAL {
        dims.batch * dims.heads
    } else {
        dims.group()
    };
    parallel::for_each_piece(out, heads_at_once * dims.head_dim, |first, out| {
        let mut scores = vec![0.0; dims.seq];
        for (i, out) in out.chunks_exact_mut(dims.head_dim).enumerate() {
            let head = first / dims.head_dim + i;
            let (b, a) = (head / dims.heads, head % dims.heads);
            let begin = cache.key_at(b, 0, a / dims.group());
            let query = &q[head * dims.head_dim..][..dims.head_dim];
            one_head(dims, query, &k[begin..], &v[begin..], &mut scores, out);
        }
    });
}

fn one_head(dims: &Dims, query: &[f32], k: &[f32], v: &[f32], scores: &mut [f32], out: &mut [f32]) {
    let (d, stride) = (dims.head_dim, dims.key_stride());
    dispatch(
        #[inline(always)]
        || {
            for (score, key) in scores.iter_mut().zip(k.chunks(stride)) {
                *score = dot(query, &key[..d]) * dims.scale;
            }
            let max = lanes::max(scores);
            scores.iter_mut().for_each(|score| *score = exp(*score - max));
            let inverse = (1.0 / lanes::sum_of(scores, |p| p)) as f32;
            out.fill(0.0);
            for (&p, value) in scores.iter().zip(v.chunks(stride)) {
                let p = p * inverse;
                out.iter_mut()
                    .zip(value)
                    .for_each(|(out, &value)| *out = p.mul_add(value, *out));
            }
        },
    );
}
