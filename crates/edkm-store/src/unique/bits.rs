//! Numbers of a fixed width in bits, without gaps, least significant bit first.

/// Bits that tell `count` things apart.
pub(super) fn needed(count: usize) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

/// Bytes of `count` numbers of `bits` bits.
pub(super) fn packed_len(count: usize, bits: u32) -> usize {
    // In two parts, so that no product overflows.
    count / 8 * bits as usize + (count % 8 * bits as usize).div_ceil(8)
}

/// Packs numbers below 2^bits; `bits` is at most 32.
pub(super) fn pack(numbers: impl ExactSizeIterator<Item = u32>, bits: u32) -> Vec<u8> {
    let mut packed = vec![0; packed_len(numbers.len(), bits)];
    let mut out = 0;
    let (mut waiting, mut filled) = (0u64, 0);
    for number in numbers {
        waiting |= u64::from(number) << filled;
        filled += bits;
        if filled >= 32 {
            packed[out..out + 4].copy_from_slice(&(waiting as u32).to_le_bytes());
            out += 4;
            waiting >>= 32;
            filled -= 32;
        }
    }
    let rest = packed.len() - out;
    packed[out..].copy_from_slice(&waiting.to_le_bytes()[..rest]);
    packed
}

/// The first `count` numbers of `bits` bits; fewer when `packed` ends before them, none when `bits` is above 32.
pub(super) fn unpack(packed: &[u8], bits: u32, count: usize) -> impl Iterator<Item = u32> + '_ {
    let whole = if bits <= 32 && packed_len(count, bits) <= packed.len() {
        count
    } else {
        0
    };
    let mask = (1u64 << (bits & 63)) - 1;
    let (mut next, mut waiting, mut filled) = (0, 0u64, 0);
    (0..whole).map(move |_| {
        if filled < bits {
            // At most 31 bits are waiting, so 32 more fit.
            let word = match packed.get(next..next + 4) {
                Some(word) => u32::from_le_bytes([word[0], word[1], word[2], word[3]]),
                None => packed[next.min(packed.len())..]
                    .iter()
                    .rev()
                    .fold(0, |word, &byte| word << 8 | u32::from(byte)),
            };
            waiting |= u64::from(word) << filled;
            next += 4;
            filled += 32;
        }
        let number = (waiting & mask) as u32;
        waiting >>= bits;
        filled -= bits;
        number
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_comes_back() {
        for bits in 0..=32 {
            for count in [0, 1, 2, 7, 8, 9, 31, 32, 33, 1000] {
                let mask = ((1u64 << bits) - 1) as u32;
                let numbers: Vec<u32> = (0..count as u32)
                    .map(|i| i.wrapping_mul(2_654_435_761) & mask)
                    .collect();
                let packed = pack(numbers.iter().copied(), bits);
                assert_eq!(packed.len(), (count * bits as usize).div_ceil(8));
                assert_eq!(
                    unpack(&packed, bits, count).collect::<Vec<_>>(),
                    numbers,
                    "{count} numbers of {bits} bits"
                );
            }
        }
    }

    #[test]
    fn whole_bytes_are_plain_arrays() {
        assert_eq!(pack([1, 2, 255].into_iter(), 8), [1, 2, 255]);
        assert_eq!(pack([1, 0x1234, 65535].into_iter(), 16), [1, 0, 0x34, 0x12, 255, 255]);
    }

    #[test]
    fn too_few_bytes_give_no_numbers() {
        assert_eq!(unpack(&[1, 2], 8, 3).count(), 0);
        assert_eq!(unpack(&[0; 100], 33, 3).count(), 0);
    }

    #[test]
    fn the_narrowest_width_is_found() {
        for (count, bits) in [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 2),
            (8, 3),
            (9, 4),
            (256, 8),
            (257, 9),
            (65_536, 16),
        ] {
            assert_eq!(needed(count), bits, "{count}");
        }
    }
}
