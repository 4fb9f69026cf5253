//! Attention over a cache beside the definition in f64.

use edkm_cuda::cached_attention::{forward, Cache, CacheKind, Heads, Pieces, Span};
use edkm_cuda::Runtime;
use edkm_testkit::{assert_bitwise_equal, assert_close, random};
use half::f16;

use crate::device::{device, Device};

fn ok<T>(result: Result<T, <Device as Runtime>::Error>) -> T {
    let Ok(value) = result;
    value
}

/// What attends, with everything on the host too.
struct Case {
    heads: Heads,
    spans: Vec<Span>,
    capacity: usize,
    /// `[capacity, G, D]`
    k: Vec<f32>,
    v: Vec<f32>,
    /// `[tokens, A, D]`
    q: Vec<f32>,
}

impl Case {
    fn new([queries, keys, dim]: [usize; 3], spans: Vec<Span>) -> Self {
        let tokens = spans.last().map_or(0, |span| span.tokens.end);
        let capacity = spans
            .iter()
            .map(|span| (span.own + span.tokens.len()).max(span.seen.end))
            .max()
            .unwrap_or(0)
            + 3;
        Self {
            heads: Heads { queries, keys, dim },
            capacity,
            k: random(1, capacity * keys * dim),
            v: random(2, capacity * keys * dim),
            // far from one, so that the softmax is not flat
            q: random(3, tokens * queries * dim).iter().map(|x| 3.0 * x).collect(),
            spans,
        }
    }

    fn want(&self, round: impl Fn(f32) -> f32) -> Vec<f64> {
        let Heads { queries, keys, dim } = self.heads;
        let mut out = vec![0.0; self.q.len()];
        for span in &self.spans {
            for (i, token) in span.tokens.clone().enumerate() {
                let slots: Vec<usize> = span.seen.clone().chain(span.own..=span.own + i).collect();
                for head in 0..queries {
                    let q = &self.q[(token * queries + head) * dim..][..dim];
                    let of = |x: &[f32], slot: usize| -> Vec<f64> {
                        let row = &x[(slot * keys + head / (queries / keys)) * dim..][..dim];
                        row.iter().map(|&x| round(x).into()).collect()
                    };
                    let scores: Vec<f64> = slots
                        .iter()
                        .map(|&slot| {
                            let k = of(&self.k, slot);
                            k.iter().zip(q).map(|(k, &q)| k * f64::from(q)).sum::<f64>() / (dim as f64).sqrt()
                        })
                        .collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
                    let out = &mut out[(token * queries + head) * dim..][..dim];
                    for (&slot, score) in slots.iter().zip(&scores) {
                        let weight = (score - largest).exp() / total;
                        out.iter_mut()
                            .zip(of(&self.v, slot))
                            .for_each(|(o, v)| *o += weight * v);
                    }
                }
            }
        }
        out
    }

    /// The keys and values written in two goes, out of order.
    fn cache(&self, device: &Device, kind: CacheKind) -> Cache<Device> {
        let mut cache = ok(Cache::new(device, self.heads, self.capacity, kind));
        let row = self.heads.keys * self.heads.dim;
        let middle = self.capacity / 2;
        for slots in [middle..self.capacity, 0..middle] {
            let part = |x: &[f32]| device.array(&x[slots.start * row..slots.end * row]);
            let ids: Vec<u32> = slots.clone().map(|slot| slot as u32).collect();
            let (k, v, ids) = (part(&self.k), part(&self.v), device.array(&ids));
            ok(cache.write(device, k.as_slice(), v.as_slice(), ids.as_slice()));
        }
        cache
    }

    fn got(&self, device: &Device, kind: CacheKind) -> Vec<f32> {
        let cache = self.cache(device, kind);
        let pieces = ok(Pieces::new(device, self.heads, &self.spans));
        let (q, mut out) = (device.array(&self.q), device.array(&vec![f32::NAN; self.q.len()]));
        ok(forward(device, &cache, &pieces, q.as_slice(), out.as_mut()));
        ok(out.to_host(device))
    }
}

fn span(tokens: std::ops::Range<usize>, seen: std::ops::Range<usize>, own: usize) -> Span {
    Span { tokens, seen, own }
}

fn cases() -> Vec<(&'static str, Vec<Span>)> {
    vec![
        ("one token alone", vec![span(0..1, 0..0, 0)]),
        ("one token behind some", vec![span(0..1, 0..70, 70)]),
        ("one token whose keys are several ranges", vec![span(0..1, 0..530, 530)]),
        ("a prompt of more than a tile", vec![span(0..75, 0..0, 0)]),
        ("a prompt behind others", vec![span(0..20, 0..250, 250)]),
        (
            "sequences with a common beginning apart from their own",
            vec![
                span(0..17, 0..0, 0),
                span(17..21, 0..17, 32),
                span(21..22, 0..17, 48),
                span(22..30, 64..64, 64),
            ],
        ),
    ]
}

#[test]
fn tokens_attend_to_what_they_see() {
    let Some(device) = device() else { return };
    // one query head a key head, several, a number that does not divide a tile; heads of whole fours and not, of two halves
    for shape in [[2, 2, 8], [6, 2, 6], [5, 1, 4], [4, 2, 72]] {
        for (i, (name, spans)) in cases().into_iter().enumerate() {
            // all of them for one shape: each tile takes the host a while
            if shape[0] != 6 && i % 2 == 0 {
                continue;
            }
            let case = Case::new(shape, spans);
            // sums of up to 500 terms in f32; exponents of scores up to 10, off by their rounding
            assert_close(name, &case.got(&device, CacheKind::F32), &case.want(|x| x), 4e-6);
            let half = |x| f16::from_f32(x).to_f32();
            assert_close(name, &case.got(&device, CacheKind::F16), &case.want(half), 4e-6);
        }
    }
}

#[test]
fn results_are_the_same_each_time_and_alone() {
    let Some(device) = device() else { return };
    let shape = [6, 2, 8];
    let spans = vec![span(0..3, 0..300, 300), span(3..4, 0..300, 304)];
    let both = Case::new(shape, spans);
    let got = both.got(&device, CacheKind::F32);
    assert_bitwise_equal("again", &both.got(&device, CacheKind::F32), &got);
    let row = 6 * 8;
    let alone = Case {
        spans: vec![span(0..1, 0..300, 304)],
        q: both.q[3 * row..].to_vec(),
        k: both.k.clone(),
        v: both.v.clone(),
        ..both
    };
    assert_bitwise_equal("alone", &alone.got(&device, CacheKind::F32), &got[3 * row..]);
}

#[test]
fn numbers_beyond_f16_are_its_largest() {
    let Some(device) = device() else { return };
    let mut case = Case::new([1, 1, 4], vec![span(0..1, 0..0, 0)]);
    // a key that became infinite would make the softmax NaN
    case.k[..4].copy_from_slice(&[1e6, -1e6, 1e6, -1e6]);
    case.v[..4].copy_from_slice(&[1e6, -1e6, 65504.0, 0.5]);
    let got = case.got(&device, CacheKind::F16);
    assert_bitwise_equal("values", &got, &[65504.0, -65504.0, 65504.0, 0.5]);
}

#[test]
#[should_panic(expected = "at most 128")]
fn heads_that_are_too_large_are_refused() {
    let Some(device) = device() else { panic!("at most 128") };
    Case::new([1, 1, 129], vec![span(0..1, 0..0, 0)]).got(&device, CacheKind::F32);
}
