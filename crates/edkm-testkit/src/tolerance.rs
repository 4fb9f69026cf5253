//! Comparisons of arrays of numbers.
//!
//! The measure is the largest absolute difference divided by the largest absolute reference value: an error that is small
//! for the array as a whole. Every comparison is written so that NaN fails it.

/// A number that widens to f64 without loss.
pub trait Real: Copy + Into<f64> {}
impl<T: Copy + Into<f64>> Real for T {}

/// Largest `|got - want|` over largest `|want|`.
///
/// Infinite when the lengths differ or when any number on either side is not finite; where every reference value is zero
/// it is zero for an exact match and infinite otherwise.
pub fn largest_error<A: Real, B: Real>(got: &[A], want: &[B]) -> f64 {
    worst(got, want).map_or(f64::INFINITY, |w| w.error)
}

/// Asserts that `got` is within `tolerance` of `want`, as [`largest_error`] measures it.
///
/// # Panics
/// With `what`, the worst element and both its values, when the arrays differ by more, differ in length, or hold a NaN.
#[track_caller]
pub fn assert_close<A: Real, B: Real>(what: &str, got: &[A], want: &[B], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: number of elements");
    let Some(worst) = worst(got, want) else {
        let at = (0..got.len()).find(|&i| !(got[i].into().is_finite() && want[i].into().is_finite()));
        let at = at.expect("only numbers that are not finite have no measure");
        panic!(
            "{what}: element {at} is {:?}, reference {:?}",
            got[at].into(),
            want[at].into()
        );
    };
    // Not `error > tolerance`: that would let a tolerance of NaN pass.
    let close = worst.error <= tolerance;
    if !close {
        let (g, w): (f64, f64) = (got[worst.at].into(), want[worst.at].into());
        panic!(
            "{what}: error {:.3e} of the largest reference value is above {tolerance:.1e}; worst at element {}: {g:e}, reference {w:e}",
            worst.error, worst.at
        );
    }
}

/// Asserts that two arrays hold the same bits (so 0.0 and -0.0 differ, and equal NaNs are equal).
///
/// # Panics
/// With `what` and the first difference.
#[track_caller]
pub fn assert_bitwise_equal(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: number of elements");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            g.to_bits() == w.to_bits(),
            "{what}: element {i} is {g:e}, not bitwise {w:e}"
        );
    }
}

struct Worst {
    at: usize,
    error: f64,
}

fn worst<A: Real, B: Real>(got: &[A], want: &[B]) -> Option<Worst> {
    if got.len() != want.len() {
        return None;
    }
    let mut scale = 0.0f64;
    let mut worst = Worst { at: 0, error: 0.0 };
    for (at, (&g, &w)) in got.iter().zip(want).enumerate() {
        let (g, w): (f64, f64) = (g.into(), w.into());
        if !(g.is_finite() && w.is_finite()) {
            return None;
        }
        scale = scale.max(w.abs());
        let error = (g - w).abs();
        if error > worst.error {
            worst = Worst { at, error };
        }
    }
    // 0 / 0 for an exact match of zeros.
    if worst.error > 0.0 {
        worst.error /= scale;
    }
    Some(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_against_the_largest_reference_value() {
        assert_eq!(largest_error(&[1.0f32, 10.5], &[1.0f64, 10.0]), 0.05);
        assert_eq!(largest_error(&[0.0f32], &[0.0f64]), 0.0);
        assert_eq!(largest_error(&[1e-30f32], &[0.0f64]), f64::INFINITY);
        assert_eq!(largest_error(&[1.0f32], &[1.0f64, 2.0]), f64::INFINITY);
    }

    #[test]
    fn nan_is_never_close() {
        for (g, w) in [
            (f32::NAN, 1.0f32),
            (1.0, f32::NAN),
            (f32::NAN, f32::NAN),
            (f32::INFINITY, f32::INFINITY),
        ] {
            assert_eq!(largest_error(&[g], &[w]), f64::INFINITY);
            assert!(std::panic::catch_unwind(|| assert_close("nan", &[g], &[w], 1e9)).is_err());
        }
    }

    #[test]
    #[should_panic(expected = "worst at element 1")]
    fn names_the_worst_element() {
        assert_close("pair", &[1.0f32, 2.5, 3.0], &[1.0f32, 2.0, 3.0], 1e-3);
    }

    #[test]
    #[should_panic(expected = "not bitwise")]
    fn signed_zeros_differ_bitwise() {
        assert_bitwise_equal("zeros", &[0.0], &[-0.0]);
    }
}
