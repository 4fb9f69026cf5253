//! Against attention by its definition, in f64.

use super::*;
use crate::config::LlamaConfig;
use crate::inference::cache::{CacheType, KvCache};
use crate::inference::testing::{config, numbers};

/// What a query of token `i` sees: keys and values `[positions, D]` of its head.
fn reference(q: &[f32], keys: &[&[f32]], values: &[&[f32]]) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let scale = 1.0 / (q.len() as f64).sqrt();
    let scores: Vec<f64> = keys.iter().map(|key| dot(q, key) * scale).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let coordinate = |d: usize| {
        weights
            .iter()
            .zip(values)
            .map(|(p, v)| p * f64::from(v[d]))
            .sum::<f64>()
            / sum
    };
    (0..q.len()).map(coordinate).collect()
}

struct Case {
    heads: Heads,
    cache: KvCache,
    /// Rows of the cache, `[G, D]` each.
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(heads: Heads, capacity: usize, cache_type: CacheType) -> Self {
        let config = LlamaConfig {
            num_attention_heads: heads.queries,
            num_key_value_heads: heads.keys,
            head_dim: heads.dim,
            num_hidden_layers: 1,
            ..config()
        };
        let width = heads.keys * heads.dim;
        let mut cache = KvCache::new(&config, capacity, cache_type);
        // Positions that no token sees hold what must not show.
        let poison = vec![f32::NAN; capacity * width];
        cache.write(0, 0, &poison, &poison);
        Self {
            heads,
            cache,
            k: poison.clone(),
            v: poison,
        }
    }

    fn write(&mut self, first: usize, count: usize) {
        let width = self.heads.keys * self.heads.dim;
        let (k, v) = (
            numbers(first as u64 + 1, count * width),
            numbers(first as u64 + 1001, count * width),
        );
        self.cache.write(0, first, &k, &v);
        self.k[first * width..][..k.len()].copy_from_slice(&k);
        self.v[first * width..][..v.len()].copy_from_slice(&v);
    }

    fn check(&self, spans: &[Span], tolerance: f64) {
        let Heads { queries, keys, dim } = self.heads;
        let tokens = spans.last().map_or(0, |span| span.tokens.end);
        let q = numbers(7, tokens * queries * dim);
        let mut out = vec![f32::NAN; q.len()];
        attend(self.cache.layer(0), self.heads, spans, &q, &mut out);
        for span in spans {
            for (i, token) in span.tokens.clone().enumerate() {
                for head in 0..queries {
                    let g = head / (queries / keys);
                    let row = |of: &'_ [f32], at: usize| -> Vec<f32> { of[(at * keys + g) * dim..][..dim].to_vec() };
                    let positions: Vec<usize> = span.seen.clone().chain(span.own..=span.own + i).collect();
                    let k: Vec<Vec<f32>> = positions.iter().map(|&at| row(&self.k, at)).collect();
                    let v: Vec<Vec<f32>> = positions.iter().map(|&at| row(&self.v, at)).collect();
                    let at = (token * queries + head) * dim;
                    let want = reference(
                        &q[at..at + dim],
                        &k.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                        &v.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                    );
                    for (got, want) in out[at..at + dim].iter().zip(&want) {
                        let off = (f64::from(*got) - want).abs();
                        assert!(off <= tolerance, "token {token} head {head}: {got} against {want}");
                    }
                }
            }
        }
    }
}

const SHAPES: [Heads; 4] = [
    Heads {
        queries: 1,
        keys: 1,
        dim: 2,
    },
    Heads {
        queries: 6,
        keys: 2,
        dim: 20,
    },
    Heads {
        queries: 16,
        keys: 2,
        dim: 64,
    },
    Heads {
        queries: 5,
        keys: 5,
        dim: 8,
    },
];

/// Numbers below 1 and sums of some hundred terms that are divided by their number: a few roundings of f32.
const F32: f64 = 2e-6;
/// Keys and values with 11 bits.
const F16: f64 = 2e-3;

#[test]
fn a_span_behind_others_of_its_sequence() {
    for heads in SHAPES {
        for (seen, tokens) in [(0, 1), (0, 5), (1, 1), (15, 2), (16, 1), (37, 30), (300, 1), (90, 70)] {
            for (cache_type, tolerance) in [(CacheType::F32, F32), (CacheType::F16, F16)] {
                let mut case = Case::new(heads, 400, cache_type);
                case.write(0, seen + tokens);
                case.check(
                    &[Span {
                        tokens: 0..tokens,
                        seen: 0..seen,
                        own: seen,
                    }],
                    tolerance,
                );
            }
        }
    }
}

#[test]
fn spans_that_share_what_they_have_seen() {
    for heads in SHAPES {
        let mut case = Case::new(heads, 160, CacheType::F32);
        case.write(0, 19);
        case.write(32, 3);
        case.write(48, 20);
        case.write(80, 17);
        let spans = [
            Span {
                tokens: 0..19,
                seen: 0..0,
                own: 0,
            },
            Span {
                tokens: 19..22,
                seen: 0..19,
                own: 32,
            },
            Span {
                tokens: 22..42,
                seen: 0..19,
                own: 48,
            },
            Span {
                tokens: 42..59,
                seen: 0..0,
                own: 80,
            },
        ];
        case.check(&spans, F32);
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let heads = SHAPES[2];
    let mut case = Case::new(heads, 400, CacheType::F32);
    case.write(0, 400);
    for (seen, tokens) in [(399, 1), (200, 200)] {
        let span = [Span {
            tokens: 0..tokens,
            seen: 0..seen,
            own: seen,
        }];
        let q = numbers(7, tokens * heads.width());
        let run = |threads| {
            let mut out = vec![f32::NAN; q.len()];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| attend(case.cache.layer(0), heads, &span, &q, &mut out));
            out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = run(1);
        assert!([2, 3, 5].iter().all(|&threads| run(threads) == one));
    }
}
