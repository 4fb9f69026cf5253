//! Checks of lengths on entry, and of sizes that are computed from what a caller asks for.

use std::fmt;

/// A size that cannot be had: bytes beyond what can be addressed, or more of something than a kernel or a library counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLarge {
    /// The op and its size, with axes.
    pub what: &'static str,
    /// The factors of the size.
    pub factors: Vec<usize>,
    /// The most that there can be.
    pub most: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let factors: Vec<String> = self.factors.iter().map(usize::to_string).collect();
        write!(
            f,
            "{}: {} is too large, the most is {}",
            self.what,
            factors.join(" x "),
            self.most
        )
    }
}

impl std::error::Error for TooLarge {}

/// Panics unless the slice named `what` (with its axes) has the expected length.
#[track_caller]
pub(crate) fn len(what: &str, got: usize, expected: usize) {
    assert!(got == expected, "`{what}` holds {got} numbers, not {expected}");
}

/// Panics unless the slice named `what` has a number for each place of the axes, whose product may be beyond any length.
#[track_caller]
pub(crate) fn shape<const N: usize>(what: &str, got: usize, axes: [usize; N]) {
    assert!(
        times(&axes) == Some(got),
        "`{what}` holds {got} numbers, not {axes:?} multiplied"
    );
}

/// The number of rows of `width` numbers. Panics unless they are whole.
#[track_caller]
pub(crate) fn rows(what: &str, len: usize, width: usize) -> usize {
    assert!(
        width > 0 && len.is_multiple_of(width),
        "`{what}` holds {len} numbers, not rows of {width}"
    );
    len / width
}

/// The product of a size's factors.
pub(crate) fn product<const N: usize>(what: &'static str, factors: [usize; N]) -> Result<usize, TooLarge> {
    times(&factors).ok_or_else(|| TooLarge {
        what,
        factors: factors.to_vec(),
        most: usize::MAX,
    })
}

/// A size as a `u32`, in which kernels count.
pub(crate) fn in_u32(what: &'static str, size: usize) -> Result<u32, TooLarge> {
    u32::try_from(size).map_err(|_| TooLarge {
        what,
        factors: vec![size],
        most: u32::MAX as usize,
    })
}

/// A size as an `i32`, in which cuBLAS counts.
#[cfg(any(feature = "driver", test))]
pub(crate) fn in_i32(what: &'static str, size: usize) -> Result<i32, TooLarge> {
    i32::try_from(size).map_err(|_| TooLarge {
        what,
        factors: vec![size],
        most: i32::MAX as usize,
    })
}

/// The product, if there is one. Where a factor is 0 it is 0, whatever the others are.
fn times(factors: &[usize]) -> Option<usize> {
    if factors.contains(&0) {
        return Some(0);
    }
    factors
        .iter()
        .try_fold(1usize, |product, &factor| product.checked_mul(factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_exact_or_an_error() {
        assert_eq!(product("cache [G, D]", [3, 5]), Ok(15));
        assert_eq!(product("cache [G, D]", [1 << 32, 0, 1 << 40]), Ok(0));
        assert_eq!(product("cache [G, D]", [1 << 31, 1 << 32]), Ok(1 << 63));
        let error = product("cache [G, D]", [1 << 32, 1 << 32]).unwrap_err();
        let message = "cache [G, D]: 4294967296 x 4294967296 is too large, the most is 18446744073709551615";
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn a_count_is_what_its_type_holds_or_an_error() {
        assert_eq!(in_u32("tokens", u32::MAX as usize), Ok(u32::MAX));
        assert_eq!(in_i32("rows", i32::MAX as usize), Ok(i32::MAX));
        let error = in_u32("tokens", 1 << 32).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tokens: 4294967296 is too large, the most is 4294967295"
        );
        let error = in_i32("rows", 1 << 31).unwrap_err();
        assert_eq!(
            error.to_string(),
            "rows: 2147483648 is too large, the most is 2147483647"
        );
    }

    #[test]
    #[should_panic = "`a [m, k]` holds 0 numbers, not [4294967296, 4294967296] multiplied"]
    fn a_shape_that_wraps_around_is_no_length() {
        shape("a [m, k]", 0, [1 << 32, 1 << 32]);
    }
}
