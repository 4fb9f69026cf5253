//! Several texts in one sequence, none of which sees another.

use std::sync::Arc;

use super::{backward, forward, Dims};
use rayon::prelude::*;

/// Stretches of positions that see themselves alone, as where several records share a sequence: what segment ids say in T5X and lengths in FlashAttention's
/// calls for sequences of various lengths. They follow each other through all sequences of a batch, and none reaches from one sequence into the next.
///
/// A clone is the same segments, not a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    lengths: Arc<[u32]>,
    /// Positions of each sequence.
    seq: usize,
}

impl Segments {
    /// Segments of these lengths, in order, in sequences of `seq` positions; `None` where one is empty, or they are not those of whole sequences.
    #[must_use]
    pub fn new(seq: usize, lengths: impl Into<Arc<[u32]>>) -> Option<Self> {
        let lengths = lengths.into();
        let mut left = seq;
        for &length in &*lengths {
            left = left.checked_sub(length as usize).filter(|_| length > 0)?;
            if left == 0 {
                left = seq;
            }
        }
        (left == seq).then_some(Self { lengths, seq })
    }

    /// Their lengths, of at least 1.
    #[must_use]
    pub fn lengths(&self) -> &Arc<[u32]> {
        &self.lengths
    }

    /// Positions of each sequence.
    #[must_use]
    pub fn seq(&self) -> usize {
        self.seq
    }

    /// Whether they are those of so many sequences of this length.
    #[must_use]
    pub fn are_of(&self, batch: usize, seq: usize) -> bool {
        self.seq == seq && self.positions() == batch.saturating_mul(seq)
    }

    fn positions(&self) -> usize {
        self.lengths
            .iter()
            .fold(0, |sum, &length| sum.saturating_add(length as usize))
    }

    /// `[B, S]`: for each position the first that it sees, counted from the beginning of its sequence.
    #[must_use]
    pub fn first_seen(&self) -> Vec<u32> {
        let mut first = Vec::with_capacity(self.positions());
        for &length in &*self.lengths {
            let begin = (first.len() % self.seq) as u32;
            first.resize(first.len() + length as usize, begin);
        }
        first
    }

    /// The axes of each by itself.
    fn each(&self, dims: Dims) -> impl Iterator<Item = Dims> + '_ {
        self.lengths.iter().map(move |&length| Dims {
            batch: 1,
            seq: length as usize,
            ..dims
        })
    }

    #[track_caller]
    fn check(&self, dims: &Dims) {
        let Dims { batch, seq, .. } = *dims;
        assert!(
            self.are_of(batch, seq),
            "segments of {} positions, in sequences of {}, where there are {batch} of {seq}",
            self.positions(),
            self.seq
        );
    }
}

/// The next `len` elements.
fn next<'a, T>(from: &mut &'a [T], len: usize) -> &'a [T] {
    let (part, rest) = from.split_at(len);
    *from = rest;
    part
}

/// The next `len` elements.
fn next_mut<'a, T>(from: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (part, rest) = std::mem::take(from).split_at_mut(len);
    *from = rest;
    part
}

/// [`forward`], each position seeing those of its own segment alone: the same bits as of each segment by itself. `lse`, of `B A S` numbers, is for
/// [`backward_of_segments`] with the same segments.
///
/// # Panics
///
/// As [`forward`], and if the segments are not those of B sequences of S.
pub fn forward_of_segments(
    dims: &Dims,
    segments: &Segments,
    mut q: &[f32],
    mut k: &[f32],
    mut v: &[f32],
    mut out: &mut [f32],
    mut lse: &mut [f32],
) {
    segments.check(dims);
    dims.check_forward([q, k, v], out, lse);
    let parts: Vec<_> = segments
        .each(*dims)
        .map(|dims| {
            let [q, k, v] = [
                next(&mut q, dims.query_len()),
                next(&mut k, dims.key_len()),
                next(&mut v, dims.key_len()),
            ];
            (
                dims,
                [q, k, v],
                next_mut(&mut out, dims.query_len()),
                next_mut(&mut lse, dims.lse_len()),
            )
        })
        .collect();
    parts
        .into_par_iter()
        .for_each(|(dims, [q, k, v], out, lse)| forward(&dims, q, k, v, out, lse));
}

/// [`backward`] of [`forward_of_segments`]. Its transient memory is that of as many calls for one sequence as there are threads: where G < 16 each may take up to
/// 16 / G times its part of `q`.
///
/// # Panics
///
/// As [`backward`], and if the segments are not those of B sequences of S.
pub fn backward_of_segments(
    dims: &Dims,
    segments: &Segments,
    mut q: &[f32],
    mut k: &[f32],
    mut v: &[f32],
    mut out: &[f32],
    mut lse: &[f32],
    mut grad_out: &[f32],
    mut grad_q: &mut [f32],
    mut grad_k: &mut [f32],
    mut grad_v: &mut [f32],
) {
    segments.check(dims);
    dims.check_forward([q, k, v], out, lse);
    dims.check_gradients(grad_out, grad_q, grad_k, grad_v);
    let parts: Vec<_> = segments
        .each(*dims)
        .map(|dims| {
            let (of_query, of_key) = (dims.query_len(), dims.key_len());
            let read = [
                next(&mut q, of_query),
                next(&mut k, of_key),
                next(&mut v, of_key),
                next(&mut out, of_query),
                next(&mut lse, dims.lse_len()),
                next(&mut grad_out, of_query),
            ];
            let grads = [
                next_mut(&mut grad_q, of_query),
                next_mut(&mut grad_k, of_key),
                next_mut(&mut grad_v, of_key),
            ];
            (dims, read, grads)
        })
        .collect();
    parts
        .into_par_iter()
        .for_each(|(dims, [q, k, v, out, lse, grad_out], [grad_q, grad_k, grad_v])| {
            backward(&dims, q, k, v, out, lse, grad_out, grad_q, grad_k, grad_v);
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_for_any_pool, random};

    const DIMS: Dims = Dims {
        batch: 2,
        seq: 150,
        heads: 4,
        kv_heads: 2,
        head_dim: 20,
        scale: 0.3,
    };

    fn segments() -> Segments {
        Segments::new(DIMS.seq, [1, 140, 9, 33, 100, 17]).unwrap()
    }

    #[test]
    fn lengths_are_those_of_whole_sequences() {
        assert!(Segments::new(5, [2, 3, 5]).is_some());
        assert!(Segments::new(5, []).is_some());
        for wrong in [&[2u32, 2][..], &[6], &[3, 3, 4], &[5, 0], &[2, 0, 3]] {
            assert_eq!(Segments::new(5, wrong), None, "{wrong:?}");
        }
        assert_eq!(Segments::new(0, [1]), None);
        let segments = Segments::new(5, [2, 3, 5]).unwrap();
        assert_eq!(segments.first_seen(), [0, 0, 2, 2, 2, 0, 0, 0, 0, 0]);
    }

    type Run = [Vec<f32>; 5];

    /// Output, log-sum-exp, and the gradients of q, k and v of a sum weighted by chance.
    fn run(segments: &Segments, [q, k, v]: [&[f32]; 3]) -> Run {
        let mut out = vec![f32::NAN; DIMS.query_len()];
        let mut lse = vec![f32::NAN; DIMS.lse_len()];
        forward_of_segments(&DIMS, segments, q, k, v, &mut out, &mut lse);
        let grad_out = random(4, DIMS.query_len());
        let mut grads = [DIMS.query_len(), DIMS.key_len(), DIMS.key_len()].map(|len| vec![0.0; len]);
        let [to_q, to_k, to_v] = &mut grads;
        backward_of_segments(&DIMS, segments, q, k, v, &out, &lse, &grad_out, to_q, to_k, to_v);
        let [to_q, to_k, to_v] = grads;
        [out, lse, to_q, to_k, to_v]
    }

    fn inputs() -> [Vec<f32>; 3] {
        [(1, DIMS.query_len()), (2, DIMS.key_len()), (3, DIMS.key_len())].map(|(seed, len)| random(seed, len))
    }

    /// What a segment gives and gets follows from itself alone: with all others changed it is the same bits.
    #[test]
    fn no_segment_sees_another() {
        let [q, k, v] = inputs();
        let segments = segments();
        let whole = run(&segments, [&q, &k, &v]);
        let mut begin = 0;
        for &length in &**segments.lengths() {
            let end = begin + length as usize;
            let others = |x: &[f32], width: usize| -> Vec<f32> {
                let inside = begin * width..end * width;
                let changed = |(i, &x): (usize, &f32)| if inside.contains(&i) { x } else { 2.0 - x };
                x.iter().enumerate().map(changed).collect()
            };
            let (of_query, of_key) = (DIMS.heads * DIMS.head_dim, DIMS.kv_heads * DIMS.head_dim);
            let [q, k, v] = [others(&q, of_query), others(&k, of_key), others(&v, of_key)];
            let changed = run(&segments, [&q, &k, &v]);
            for (name, (whole, changed), width) in [
                ("out", (&whole[0], &changed[0]), of_query),
                ("grad q", (&whole[2], &changed[2]), of_query),
                ("grad k", (&whole[3], &changed[3]), of_key),
                ("grad v", (&whole[4], &changed[4]), of_key),
            ] {
                let inside = begin * width..end * width;
                assert_eq!(
                    whole[inside.clone()],
                    changed[inside],
                    "{name} of positions {begin}..{end}"
                );
                assert_ne!(whole, changed, "{name} of others");
            }
            begin = end;
        }
    }

    #[test]
    fn one_segment_a_sequence_is_attention_without_segments() {
        let [q, k, v] = inputs();
        let segments = Segments::new(DIMS.seq, [150, 150]).unwrap();
        let [out, _, to_q, to_k, to_v] = run(&segments, [&q, &k, &v]);
        let mut want = vec![f32::NAN; DIMS.query_len()];
        let mut lse = vec![f32::NAN; DIMS.lse_len()];
        forward(&DIMS, &q, &k, &v, &mut want, &mut lse);
        assert_eq!(out, want);
        let grad_out = random(4, DIMS.query_len());
        let mut grads = [DIMS.query_len(), DIMS.key_len(), DIMS.key_len()].map(|len| vec![0.0; len]);
        let [want_q, want_k, want_v] = &mut grads;
        backward(&DIMS, &q, &k, &v, &want, &lse, &grad_out, want_q, want_k, want_v);
        // keys may be split otherwise among threads
        for (name, got, want) in [("q", &to_q, want_q), ("k", &to_k, want_k), ("v", &to_v, want_v)] {
            let want: Vec<f64> = want.iter().map(|&x| x.into()).collect();
            assert_close(name, got, &want, 2e-6);
        }
    }

    #[test]
    fn the_pool_makes_no_difference() {
        let [q, k, v] = inputs();
        assert_same_for_any_pool("segments", || run(&segments(), [&q, &k, &v]).concat());
    }

    #[test]
    #[should_panic(expected = "segments of 150 positions, in sequences of 150, where there are 2 of 150")]
    fn segments_of_another_batch_are_refused() {
        let [q, k, v] = inputs();
        run(&Segments::new(150, [150]).unwrap(), [&q, &k, &v]);
    }
}
