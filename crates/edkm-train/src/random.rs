//! Random choices that are the same on every platform and in every later version.
//!
//! `rand`'s own ranges and shuffles may change their stream between versions; the stream of [`ChaCha8Rng`] is fixed, and
//! everything here is derived from its 64-bit words alone.

use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The generator of a seed; different streams of one seed are independent.
pub(crate) fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    random
}

/// A number below `bound`, every one equally likely. `bound` of 0 gives 0.
pub(crate) fn below(random: &mut impl RngCore, bound: u64) -> u64 {
    if bound == 0 {
        return 0;
    }
    // Numbers from the incomplete last multiple of the bound would favour small results.
    let last = u64::MAX - u64::MAX % bound;
    loop {
        let word = random.next_u64();
        if word < last {
            return word % bound;
        }
    }
}

/// Every order equally likely (Fisher and Yates).
pub(crate) fn shuffle<T>(random: &mut impl RngCore, items: &mut [T]) {
    for end in (1..items.len()).rev() {
        items.swap(end, below(random, end as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_fixed() {
        let mut random = generator(0, 0);
        let drawn: Vec<u64> = (0..4).map(|_| below(&mut random, 1000)).collect();
        assert_eq!(drawn, PINNED, "a changed stream changes every run");
        assert_ne!(
            below(&mut generator(0, 1), u64::MAX),
            below(&mut generator(0, 0), u64::MAX)
        );
    }
    const PINNED: [u64; 4] = [652, 623, 878, 556];

    #[test]
    fn choices_are_even() {
        let mut random = generator(7, 0);
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[below(&mut random, 6) as usize] += 1;
        }
        // Five standard deviations of a binomial count: sqrt(60000 * 5/36) = 91.
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 456), "{counts:?}");
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..100).collect();
        shuffle(&mut generator(1, 0), &mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
