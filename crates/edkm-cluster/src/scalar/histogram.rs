//! The distinct 16-bit values of weights, how often each occurs, and sums of other numbers over the weights of each value.
//!
//! Axis: U distinct keys in order of value.

use std::cell::Cell;

use rayon::prelude::*;

use crate::dispatch::widest;
use crate::half_key::{from_rank, magnitude_bits, rank, BLOCK, KEYS};
use crate::HalfKind;

/// The distinct keys of some weights, in order of value.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Distinct {
    pub(crate) keys_u: Vec<u16>,
    /// Weights that have the key.
    pub(crate) counts_u: Vec<u32>,
    /// Sum of the addends of these weights; empty when there were none.
    pub(crate) sums_u: Vec<f64>,
}

impl Distinct {
    /// Number of distinct keys.
    pub(crate) fn len(&self) -> usize {
        self.keys_u.len()
    }
}

/// Up to so many weights the keys that occur are listed while counting; above, all counters are looked through, which costs some
/// microseconds whatever the number of weights.
const LISTED: usize = 1 << 13;

/// Weights are counted in so many parts at most. Fixed, so that sums do not depend on the number of threads: the parts are
/// added in order.
const PARTS: usize = 32;
const SMALLEST_PART: usize = 1 << 16;

/// Counts one palette's weights on the calling thread.
///
/// `addends`: numbers to sum by key, one for each weight.
/// The result comes with the largest magnitude (as f32 bits), by which the caller sees whether all weights were usable.
pub(crate) fn count(half: HalfKind, weights: &[f32], addends: Option<&[f32]>) -> (Distinct, u32) {
    Counters::with_local(|counters| counters.count(half, weights, addends))
}

/// Counts one palette's weights on all threads. The result does not depend on their number.
///
/// Memory: the counters of each thread (768 KiB, kept for the next time), and 14 bytes for each distinct key of each of up to 32 parts.
pub(crate) fn count_parallel(half: HalfKind, weights: &[f32], addends: Option<&[f32]>) -> (Distinct, u32) {
    let part = weights.len().div_ceil(PARTS).max(SMALLEST_PART).next_multiple_of(BLOCK);
    let parts: Vec<(Distinct, u32)> = weights
        .par_chunks(part)
        .enumerate()
        .map(|(i, weights)| count(half, weights, addends.map(|a| &a[i * part..i * part + weights.len()])))
        .collect();
    let magnitude = parts.iter().map(|(_, magnitude)| *magnitude).max().unwrap_or(0);
    let distinct = Counters::with_local(|counters| {
        for (distinct, _) in &parts {
            counters.merge(distinct);
        }
        counters.drain_all(half, addends.is_some())
    });
    (distinct, magnitude)
}

/// A counter and an accumulator for each key. Between uses all are zero.
struct Counters {
    counts: Box<[u32; KEYS]>,
    sums: Box<[f64; KEYS]>,
    listed: Vec<u16>,
}

thread_local! {
    static LOCAL: Cell<Option<Box<Counters>>> = const { Cell::new(None) };
}

impl Counters {
    fn new() -> Self {
        Counters {
            counts: zeroed(),
            sums: zeroed(),
            listed: Vec::new(),
        }
    }

    /// Runs `f` on the thread's own counters. They are taken out meanwhile, so a nested call would merely get new ones.
    fn with_local<R>(f: impl FnOnce(&mut Counters) -> R) -> R {
        let mut counters = LOCAL.take().unwrap_or_else(|| Box::new(Counters::new()));
        let result = f(&mut counters);
        LOCAL.set(Some(counters));
        result
    }

    fn count(&mut self, half: HalfKind, weights: &[f32], addends: Option<&[f32]>) -> (Distinct, u32) {
        let with_sums = addends.is_some();
        if weights.len() <= LISTED {
            let magnitude = match addends {
                None => self.fill::<true, false>(half, weights, &[]),
                Some(addends) => self.fill::<true, true>(half, weights, addends),
            };
            (self.drain_listed(half, with_sums), magnitude)
        } else {
            let magnitude = match addends {
                None => self.fill::<false, false>(half, weights, &[]),
                Some(addends) => self.fill::<false, true>(half, weights, addends),
            };
            (self.drain_all(half, with_sums), magnitude)
        }
    }

    /// The pass over the weights. Returns the largest magnitude.
    fn fill<const LIST: bool, const SUM: bool>(&mut self, half: HalfKind, weights: &[f32], addends: &[f32]) -> u32 {
        if LIST {
            self.listed.clear();
            // One more than can be needed: each weight writes before it is known whether its key is new.
            self.listed.resize(weights.len() + 1, 0);
        }
        let (counts, sums, listed) = (&mut *self.counts, &mut *self.sums, &mut self.listed[..]);
        let (magnitude, new) = widest(
            #[inline(always)]
            || {
                let mut keys = [0u16; BLOCK];
                let mut magnitude = 0;
                let mut new = 0;
                for (b, block) in weights.chunks(BLOCK).enumerate() {
                    half.round(block, &mut keys);
                    magnitude = block.iter().fold(magnitude, |m: u32, &w| m.max(magnitude_bits(w)));
                    let keys = &keys[..block.len()];
                    let addends = if SUM {
                        &addends[b * BLOCK..b * BLOCK + block.len()]
                    } else {
                        &[]
                    };
                    for (i, &key) in keys.iter().enumerate() {
                        let counter = &mut counts[key as usize];
                        if LIST {
                            listed[new] = key;
                            new += usize::from(*counter == 0);
                        }
                        *counter += 1;
                        if SUM {
                            sums[key as usize] += f64::from(addends[i]);
                        }
                    }
                }
                (magnitude, new)
            },
        );
        self.listed.truncate(new);
        magnitude
    }

    fn merge(&mut self, part: &Distinct) {
        for (i, &key) in part.keys_u.iter().enumerate() {
            self.counts[key as usize] += part.counts_u[i];
            if let Some(sum) = part.sums_u.get(i) {
                self.sums[key as usize] += sum;
            }
        }
    }

    /// Takes the listed keys out. Keys of numbers that are not finite are dropped.
    fn drain_listed(&mut self, half: HalfKind, with_sums: bool) -> Distinct {
        let mut ranks: Vec<u16> = self.listed.iter().map(|&key| rank(key)).collect();
        ranks.sort_unstable();
        let mut distinct = Distinct::with_capacity(ranks.len(), with_sums);
        for rank in ranks {
            self.drain_key(half, from_rank(rank), &mut distinct);
        }
        distinct
    }

    /// Takes all keys out. Keys of numbers that are not finite are dropped.
    fn drain_all(&mut self, half: HalfKind, with_sums: bool) -> Distinct {
        const STRIDE: usize = 64;
        let mut occupied = [false; KEYS / STRIDE];
        widest(
            #[inline(always)]
            || {
                for (occupied, counts) in occupied.iter_mut().zip(self.counts.chunks_exact(STRIDE)) {
                    *occupied = counts.iter().fold(0, |any, &count| any | count) != 0;
                }
            },
        );
        let number = occupied.iter().filter(|&&o| o).count() * STRIDE;
        let mut distinct = Distinct::with_capacity(number, with_sums);
        for first in (0..KEYS).step_by(STRIDE) {
            // Ranks of one stride are keys of one stride, in the same or the opposite order.
            if occupied[from_rank(first as u16) as usize / STRIDE] {
                for rank in first..first + STRIDE {
                    let key = from_rank(rank as u16);
                    if self.counts[key as usize] != 0 {
                        self.drain_key(half, key, &mut distinct);
                    }
                }
            }
        }
        distinct
    }

    fn drain_key(&mut self, half: HalfKind, key: u16, distinct: &mut Distinct) {
        let count = std::mem::take(&mut self.counts[key as usize]);
        let sum = std::mem::take(&mut self.sums[key as usize]);
        if key & 0x7fff <= half.largest_key() {
            distinct.keys_u.push(key);
            distinct.counts_u.push(count);
            if distinct.sums_u.capacity() > 0 {
                distinct.sums_u.push(sum);
            }
        }
    }
}

impl Distinct {
    fn with_capacity(len: usize, with_sums: bool) -> Self {
        Distinct {
            keys_u: Vec::with_capacity(len),
            counts_u: Vec::with_capacity(len),
            sums_u: Vec::with_capacity(if with_sums { len.max(1) } else { 0 }),
        }
    }
}

/// A zeroed array on the heap, from pages that the system has not touched yet.
pub(crate) fn zeroed<T: Copy + Default>() -> Box<[T; KEYS]> {
    match vec![T::default(); KEYS].into_boxed_slice().try_into() {
        Ok(array) => array,
        Err(_) => unreachable!("the length is KEYS"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Weights of both signs, with zeros of both, some values often and some once.
    fn weights(n: usize) -> Vec<f32> {
        (0..n)
            .map(|i| (((i * i * 31 + 7 * i) % 1009) as f32 - 504.0) * 1e-3 * if i % 3 == 0 { 0.0 } else { 1.0 })
            .collect()
    }

    fn reference(half: HalfKind, weights: &[f32], addends: &[f32]) -> Distinct {
        let mut map: BTreeMap<u16, (u32, f64)> = BTreeMap::new();
        for (w, a) in weights.iter().zip(addends) {
            let key = match half {
                HalfKind::Bf16 => half::bf16::from_f32(*w).to_bits(),
                HalfKind::F16 => half::f16::from_f32(*w).to_bits(),
            };
            let entry = map.entry(rank(key)).or_default();
            entry.0 += 1;
            entry.1 += f64::from(*a);
        }
        Distinct {
            keys_u: map.keys().map(|&r| from_rank(r)).collect(),
            counts_u: map.values().map(|v| v.0).collect(),
            sums_u: map.values().map(|v| v.1).collect(),
        }
    }

    #[test]
    fn counts_are_those_of_a_map() {
        for half in [HalfKind::Bf16, HalfKind::F16] {
            // Around the block, the listing limit and the part.
            for n in [
                1,
                2,
                BLOCK - 1,
                BLOCK,
                BLOCK + 1,
                LISTED,
                LISTED + 1,
                SMALLEST_PART + 3,
                3 * SMALLEST_PART,
            ] {
                let weights = weights(n);
                // Whole numbers: their sums are exact in any order.
                let addends: Vec<f32> = (0..n).map(|i| (i % 17) as f32 - 8.0).collect();
                let want = reference(half, &weights, &addends);
                for (got, _) in [
                    count(half, &weights, Some(&addends)),
                    count_parallel(half, &weights, Some(&addends)),
                ] {
                    assert_eq!(got, want, "{half} {n}");
                }
                let (counted, magnitude) = count(half, &weights, None);
                assert_eq!((&counted.keys_u, &counted.counts_u), (&want.keys_u, &want.counts_u));
                assert!(counted.sums_u.is_empty());
                assert_eq!(magnitude, weights.iter().map(|w| magnitude_bits(*w)).max().unwrap());
            }
        }
    }

    #[test]
    fn numbers_that_are_not_finite_leave_nothing_behind() {
        for n in [10, 2 * LISTED] {
            let mut bad = weights(n);
            (bad[3], bad[5]) = (f32::NAN, f32::INFINITY);
            let (distinct, magnitude) = count(HalfKind::Bf16, &bad, None);
            assert!(magnitude >= HalfKind::Bf16.first_unusable_bits());
            assert_eq!(distinct.counts_u.iter().sum::<u32>() as usize, n - 2);
            let good = weights(n);
            assert_eq!(
                count(HalfKind::Bf16, &good, Some(&good)).0,
                reference(HalfKind::Bf16, &good, &good)
            );
        }
    }
}
