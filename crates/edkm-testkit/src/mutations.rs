//! Damaged inputs for decoders: a bounded run of a fuzz target as a plain test.
//!
//! Coverage does not steer it, as it steers a fuzzer; what it has is that it runs everywhere, in a second, and the same each time.

/// How many inputs a test tries: `EDKM_FUZZ`, or `usual`.
pub fn count(usual: usize) -> usize {
    match std::env::var("EDKM_FUZZ") {
        Ok(count) => count.parse().expect("EDKM_FUZZ is a number of inputs"),
        Err(_) => usual,
    }
}

/// First the seeds as they are, then `count` times one of them, damaged in one to four ways: cut, overwritten, bits turned, a part moved or doubled,
/// a length made huge, two joined. The same for the same seeds.
pub fn mutated(seeds: &[Vec<u8>], count: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
    let mut random = SplitMix(0x5eed);
    let damaged = (0..count).map(move |_| {
        let mut input = random.of(seeds).cloned().unwrap_or_default();
        for _ in 0..=random.below(4) {
            damage(&mut input, seeds, &mut random);
        }
        input
    });
    seeds.iter().cloned().chain(damaged)
}

fn damage(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut SplitMix) {
    let at = random.below(input.len() + 1);
    let len = random.below(17).min(input.len() - at);
    match random.below(8) {
        0 => input.truncate(at),
        1 => input[at..at + len]
            .iter_mut()
            .for_each(|byte| *byte = random.next() as u8),
        2 if at < input.len() => input[at] ^= 1 << random.below(8),
        3 => drop(input.drain(at..at + len)),
        4 => {
            let part = input[at..at + len].to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, part);
        }
        // as a length of eight bytes may be found anywhere
        5 => {
            let huge = [u64::MAX, 1 << 60, 1 << 32, u64::from(u32::MAX), 0][random.below(5)].to_le_bytes();
            let end = input.len().min(at + 8);
            input[at..end].copy_from_slice(&huge[..end - at]);
        }
        6 => {
            let other = random.of(seeds).cloned().unwrap_or_default();
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend(&other[from..]);
        }
        // what a text format takes for a number, an end or a beginning
        _ => {
            let word = [
                &b"9"[..],
                b"-1",
                b"1e999",
                b"{",
                b"}",
                b"[",
                b"]",
                b"\"",
                b",",
                b"null",
                b"\n\n",
                b"\\u",
            ];
            let word = random.of(&word).copied().unwrap_or_default();
            input.splice(at..at, word.iter().copied());
        }
    }
}

/// Steele, Lea and Flood, Fast splittable pseudorandom number generators (2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `end` - 1; 0 for an `end` of 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_differ_and_are_the_same_each_time() {
        let seeds = [b"one seed of some length".to_vec(), Vec::new()];
        let all: Vec<_> = mutated(&seeds, 500).collect();
        assert_eq!(all.len(), 502);
        assert!(all.iter().eq(mutated(&seeds, 500).collect::<Vec<_>>().iter()));
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert!(distinct.len() > 300, "{}", distinct.len());
        assert_eq!(mutated(&[], 3).count(), 3);
    }
}
