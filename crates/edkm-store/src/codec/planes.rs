//! Byte planes: the bytes of equal significance of all elements, one after the other.
//!
//! The exponents of neighbouring floats are alike and their mantissas are noise. Apart, the first compress and the second
//! are seen at once to be incompressible.
//!
//! The loops are plain and of a form that the compiler turns into vector instructions (one plane at a time on the way in,
//! one word at a time on the way out): 10 to 20 GB/s for 2 and 4 bytes where a loop over bytes makes 3.

use pulp::Arch;

/// Elements at a time, so that they are in the first-level cache for every plane but the first.
const TILE: usize = 4096;

/// Splits elements of `size` bytes into `size` planes of equal length, laid out one after the other in `planes`.
/// Both slices have the same length, a multiple of `size`.
pub(super) fn split(elements: &[u8], size: usize, planes: &mut [u8]) {
    debug_assert!(elements.len() == planes.len() && elements.len().is_multiple_of(size));
    // Compiled for each set of vector instructions, of which the machine's best one runs.
    let arch = Arch::new();
    match size {
        2 => arch.dispatch(
            #[inline(always)]
            || split2(elements, planes),
        ),
        4 => arch.dispatch(
            #[inline(always)]
            || split4(elements, planes),
        ),
        8 => arch.dispatch(
            #[inline(always)]
            || split8(elements, planes),
        ),
        _ => planes.copy_from_slice(elements),
    }
}

/// The inverse of [`split`].
pub(super) fn join(planes: &[u8], size: usize, elements: &mut [u8]) {
    debug_assert!(elements.len() == planes.len() && elements.len().is_multiple_of(size));
    let arch = Arch::new();
    match size {
        2 => arch.dispatch(
            #[inline(always)]
            || join2(planes, elements),
        ),
        4 => arch.dispatch(
            #[inline(always)]
            || join4(planes, elements),
        ),
        8 => arch.dispatch(
            #[inline(always)]
            || join8(planes, elements),
        ),
        _ => elements.copy_from_slice(planes),
    }
}

#[inline(always)]
fn split2(elements: &[u8], planes: &mut [u8]) {
    let (words, _) = elements.as_chunks::<2>();
    let (a, b) = planes.split_at_mut(words.len());
    for ((words, a), b) in words.chunks(TILE).zip(a.chunks_mut(TILE)).zip(b.chunks_mut(TILE)) {
        pick(words, a, |word| u16::from_le_bytes(word) as u8);
        pick(words, b, |word| (u16::from_le_bytes(word) >> 8) as u8);
    }
}

#[inline(always)]
fn split4(elements: &[u8], planes: &mut [u8]) {
    let (words, _) = elements.as_chunks::<4>();
    let (a, rest) = planes.split_at_mut(words.len());
    let (b, rest) = rest.split_at_mut(words.len());
    let (c, d) = rest.split_at_mut(words.len());
    let planes = a
        .chunks_mut(TILE)
        .zip(b.chunks_mut(TILE))
        .zip(c.chunks_mut(TILE))
        .zip(d.chunks_mut(TILE));
    for (words, (((a, b), c), d)) in words.chunks(TILE).zip(planes) {
        pick(words, a, |word| u32::from_le_bytes(word) as u8);
        pick(words, b, |word| (u32::from_le_bytes(word) >> 8) as u8);
        pick(words, c, |word| (u32::from_le_bytes(word) >> 16) as u8);
        pick(words, d, |word| (u32::from_le_bytes(word) >> 24) as u8);
    }
}

#[inline(always)]
fn split8(elements: &[u8], planes: &mut [u8]) {
    let (words, _) = elements.as_chunks::<8>();
    for (t, tile) in words.chunks(TILE).enumerate() {
        for plane in 0..8 {
            pick(tile, &mut planes[plane * words.len() + t * TILE..], |word| word[plane]);
        }
    }
}

#[inline(always)]
fn pick<const SIZE: usize>(words: &[[u8; SIZE]], plane: &mut [u8], byte: impl Fn([u8; SIZE]) -> u8) {
    for (out, word) in plane.iter_mut().zip(words) {
        *out = byte(*word);
    }
}

#[inline(always)]
fn join2(planes: &[u8], elements: &mut [u8]) {
    let (words, _) = elements.as_chunks_mut::<2>();
    let (a, b) = planes.split_at(words.len());
    for ((word, &a), &b) in words.iter_mut().zip(a).zip(b) {
        *word = (u16::from(a) | u16::from(b) << 8).to_le_bytes();
    }
}

#[inline(always)]
fn join4(planes: &[u8], elements: &mut [u8]) {
    let (words, _) = elements.as_chunks_mut::<4>();
    let (a, rest) = planes.split_at(words.len());
    let (b, rest) = rest.split_at(words.len());
    let (c, d) = rest.split_at(words.len());
    for ((((word, &a), &b), &c), &d) in words.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        *word = (u32::from(a) | u32::from(b) << 8 | u32::from(c) << 16 | u32::from(d) << 24).to_le_bytes();
    }
}

#[inline(always)]
fn join8(planes: &[u8], elements: &mut [u8]) {
    let (words, _) = elements.as_chunks_mut::<8>();
    let count = words.len();
    let planes: [&[u8]; 8] = std::array::from_fn(|plane| &planes[plane * count..][..count]);
    for (i, word) in words.iter_mut().enumerate() {
        *word = std::array::from_fn(|plane| planes[plane][i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_hold_bytes_of_equal_significance() {
        let mut planes = [0; 8];
        split(&[1, 2, 3, 4, 5, 6, 7, 8], 4, &mut planes);
        assert_eq!(planes, [1, 5, 2, 6, 3, 7, 4, 8]);
    }

    #[test]
    fn joining_undoes_splitting() {
        for size in [1, 2, 4, 8] {
            for count in [0, 1, 2, 15, 16, 17, 63, 64, 65, 1000] {
                let elements: Vec<u8> = (0..size * count).map(|i| (i * 37 % 251) as u8).collect();
                let (mut planes, mut back) = (vec![0; elements.len()], vec![1; elements.len()]);
                split(&elements, size, &mut planes);
                join(&planes, size, &mut back);
                assert_eq!(back, elements, "{count} elements of {size} bytes");
                for (i, element) in elements.chunks_exact(size).enumerate() {
                    for (p, &byte) in element.iter().enumerate() {
                        assert_eq!(planes[p * count + i], byte);
                    }
                }
            }
        }
    }
}
