//! Huffman codes of bounded length, in the canonical form that their lengths alone describe.

use super::{Counts, MAX_BITS};

/// A code as it is written: its first bit lowest.
#[derive(Clone, Copy, Default)]
pub(super) struct Code {
    pub(super) bits: u16,
    pub(super) len: u8,
}

/// What the next [`MAX_BITS`] bits of a stream mean.
#[derive(Clone, Copy, Default)]
pub(super) struct Entry {
    pub(super) byte: u8,
    pub(super) len: u8,
}

/// Code lengths, 0 for bytes that do not occur. At least two bytes occur.
pub(super) fn lengths(counts: &Counts) -> [u8; 256] {
    let mut weights: Vec<(u32, u8)> = (0..=255)
        .map(|byte| (counts[usize::from(byte)], byte))
        .filter(|(count, _)| *count > 0)
        .collect();
    loop {
        weights.sort_unstable();
        let depths = depths(&weights);
        if depths.iter().all(|&depth| usize::from(depth) <= MAX_BITS) {
            let mut lengths = [0; 256];
            for (&(_, byte), depth) in weights.iter().zip(depths) {
                lengths[usize::from(byte)] = depth;
            }
            return lengths;
        }
        // Flatter weights make a flatter tree; equal ones one of 8 levels. It costs a rare byte a fraction of a bit.
        weights.iter_mut().for_each(|(weight, _)| *weight = *weight / 2 + 1);
    }
}

/// The depths of the leaves in Huffman's tree over weights in ascending order: the two lightest nodes are joined until one
/// is left. Joined nodes come about in ascending order too, so that two queues do.
fn depths(weights: &[(u32, u8)]) -> Vec<u8> {
    let leaves = weights.len();
    let mut node_weights: Vec<u64> = weights.iter().map(|(weight, _)| u64::from(*weight)).collect();
    let mut parents = vec![0; 2 * leaves.max(1) - 1];
    let (mut leaf, mut joined) = (0, leaves);
    while node_weights.len() < 2 * leaves - 1 {
        let parent = node_weights.len();
        let mut weight = 0;
        for _ in 0..2 {
            let leaf_is_lighter = leaf < leaves && (joined >= parent || node_weights[leaf] <= node_weights[joined]);
            let next = if leaf_is_lighter { &mut leaf } else { &mut joined };
            weight += node_weights[*next];
            parents[*next] = parent;
            *next += 1;
        }
        node_weights.push(weight);
    }
    let mut depths = vec![0u8; node_weights.len()];
    for node in (0..depths.len().saturating_sub(1)).rev() {
        depths[node] = depths[parents[node]].saturating_add(1);
    }
    depths.truncate(leaves);
    depths
}

/// The codes with these lengths, shorter ones first and bytes in order; `None` unless they use every bit sequence.
pub(super) fn codes(lengths: &[u8; 256]) -> Option<[Code; 256]> {
    let mut codes = [Code::default(); 256];
    let mut next = 0u32;
    for len in 1..=MAX_BITS as u8 {
        next <<= 1;
        for (code, _) in codes.iter_mut().zip(lengths).filter(|(_, length)| **length == len) {
            if next >= 1 << len {
                return None;
            }
            let bits = (next as u16).reverse_bits() >> (16 - len);
            *code = Code { bits, len };
            next += 1;
        }
    }
    (next == 1 << MAX_BITS && lengths.iter().all(|&len| usize::from(len) <= MAX_BITS)).then_some(codes)
}

/// The meaning of every sequence of [`MAX_BITS`] bits.
pub(super) fn decoder_table(lengths: &[u8; 256]) -> Option<[Entry; 1 << MAX_BITS]> {
    let codes = codes(lengths)?;
    let mut table = [Entry::default(); 1 << MAX_BITS];
    for (byte, Code { bits, len }) in (0..=255).zip(codes).filter(|(_, code)| code.len > 0) {
        for entry in table.iter_mut().skip(usize::from(bits)).step_by(1 << len) {
            *entry = Entry { byte, len };
        }
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: impl IntoIterator<Item = (u8, u32)>) -> Counts {
        let mut counts = [0; 256];
        for (byte, count) in of {
            counts[usize::from(byte)] = count;
        }
        counts
    }

    #[test]
    fn frequent_bytes_have_short_codes() {
        let lengths = lengths(&counts([(7, 50), (8, 25), (9, 12), (10, 13)]));
        assert_eq!([7, 8, 9, 10].map(|byte| lengths[byte]), [1, 2, 3, 3]);
        assert_eq!(lengths.iter().filter(|&&len| len > 0).count(), 4);
    }

    #[test]
    fn any_counts_have_a_complete_code_of_bounded_length() {
        let fibonacci = (0..40).scan((1u32, 1u32), |(a, b), byte| {
            (*a, *b) = (*b, *a + *b);
            Some((byte, *a))
        });
        for counts in [
            counts([(0, 1), (255, u32::MAX)]),
            counts(fibonacci),
            counts((0..=255).map(|byte| (byte, 1))),
            counts((0..=255).map(|byte| (byte, 1 << (byte % 31)))),
        ] {
            let lengths = lengths(&counts);
            assert!(lengths
                .iter()
                .zip(&counts)
                .all(|(&len, &count)| (len > 0) == (count > 0)));
            assert!(codes(&lengths).is_some());
            // Every sequence means something, namely the byte whose code it starts with.
            let (table, codes) = (
                decoder_table(&lengths).expect("complete"),
                codes(&lengths).expect("complete"),
            );
            for (sequence, entry) in table.iter().enumerate() {
                let code = codes[usize::from(entry.byte)];
                assert_eq!(
                    (entry.len, sequence & ((1 << code.len) - 1)),
                    (code.len, usize::from(code.bits))
                );
            }
        }
    }

    #[test]
    fn lengths_that_make_no_code_are_refused() {
        let mut lengths = [0; 256];
        assert!(codes(&lengths).is_none(), "none at all");
        (lengths[0], lengths[1]) = (1, 2);
        assert!(codes(&lengths).is_none(), "unused sequences");
        (lengths[1], lengths[2]) = (1, 1);
        assert!(codes(&lengths).is_none(), "too many");
        (lengths[1], lengths[2]) = (2, 15);
        assert!(codes(&lengths).is_none(), "too long");
    }
}
