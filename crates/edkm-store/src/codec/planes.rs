//! Byte planes: the bytes of equal significance of all elements, one after the other.
//!
//! The exponents of neighbouring floats are alike and their mantissas are noise. Apart, the first compress and the second
//! are seen at once to be incompressible.

/// Splits elements of `size` bytes into `size` planes of equal length, laid out one after the other in `planes`.
/// Both slices have the same length, a multiple of `size`.
pub(super) fn split(elements: &[u8], size: usize, planes: &mut [u8]) {
    debug_assert!(elements.len() == planes.len() && elements.len().is_multiple_of(size));
    match size {
        2 => split_array::<2>(elements, planes),
        4 => split_array::<4>(elements, planes),
        8 => split_array::<8>(elements, planes),
        _ => planes.copy_from_slice(elements),
    }
}

/// The inverse of [`split`].
pub(super) fn join(planes: &[u8], size: usize, elements: &mut [u8]) {
    debug_assert!(elements.len() == planes.len() && elements.len().is_multiple_of(size));
    match size {
        2 => join_array::<2>(planes, elements),
        4 => join_array::<4>(planes, elements),
        8 => join_array::<8>(planes, elements),
        _ => elements.copy_from_slice(planes),
    }
}

fn split_array<const SIZE: usize>(elements: &[u8], planes: &mut [u8]) {
    let (elements, _) = elements.as_chunks::<SIZE>();
    let mut planes = planes.chunks_exact_mut(elements.len().max(1));
    let mut planes: [&mut [u8]; SIZE] = std::array::from_fn(|_| planes.next().unwrap_or_default());
    for (i, element) in elements.iter().enumerate() {
        for (plane, &byte) in planes.iter_mut().zip(element) {
            plane[i] = byte;
        }
    }
}

fn join_array<const SIZE: usize>(planes: &[u8], elements: &mut [u8]) {
    let (elements, _) = elements.as_chunks_mut::<SIZE>();
    let mut planes = planes.chunks_exact(elements.len().max(1));
    let planes: [&[u8]; SIZE] = std::array::from_fn(|_| planes.next().unwrap_or_default());
    for (i, element) in elements.iter_mut().enumerate() {
        *element = std::array::from_fn(|p| planes[p][i]);
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
