//! Multiplication and addition with one rounding, where no instruction does it.

/// `a * b + c`, rounded once.
#[inline(always)]
pub(super) fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    // the C library of MinGW, which `f32::mul_add` calls there, is off by a unit in the last place in one of four
    match cfg!(all(windows, target_env = "gnu")) {
        true => rounded_once(a, b, c),
        false => a.mul_add(b, c),
    }
}

/// By f64, in which the product is exact. Its sum with `c` is rounded to odd, of which enough is left to round to f32.
///
/// # Source
///
/// S. Boldo and G. Melquiond, Emulation of a FMA and Correctly Rounded Sums: Proved Algorithms Using Rounding to Odd (2008).
fn rounded_once(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let of_c = sum - product;
    // what the sum lacks, exactly; NaN where it is not finite
    let error = (product - (sum - of_c)) + (c - of_c);
    let is_rounded = error.abs() > 0.0 && sum.to_bits() & 1 == 0;
    let odd = match (is_rounded, (error > 0.0) == (sum > 0.0)) {
        (false, _) => sum.to_bits(),
        (true, true) => sum.to_bits() + 1,
        (true, false) => sum.to_bits() - 1,
    };
    f64::from_bits(odd) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    // what the processor or a C library that rounds once gives
    #[cfg(not(all(windows, target_env = "gnu")))]
    mod of_the_system {
        use proptest::prelude::*;

        use super::*;

        /// Numbers as those of a model, and any.
        fn number() -> impl Strategy<Value = f32> {
            prop_oneof![-1.0f32..1.0, any::<f32>()]
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(20_000))]
            #[test]
            fn it_gives_the_same(a in number(), b in number(), c in number(), near in -8i32..8) {
                let cancels = f32::from_bits((-(a * b)).to_bits().wrapping_add_signed(near));
                for c in [c, cancels] {
                    let (ours, theirs) = (rounded_once(a, b, c), a.mul_add(b, c));
                    prop_assert!(
                        ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
                        "{a:e} {b:e} {c:e}: {ours:e}, {theirs:e}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_sum_of_a_product_is_rounded_once() {
        // 1 + 2^-12 squared is 1 + 2^-11 + 2^-24: half a unit below, and with a little more beyond the half
        let a = 1.0 + f32::EPSILON * 2048.0;
        let half = 1.0 + f32::EPSILON * 4096.0;
        assert_eq!(mul_add(a, a, 0.0), half);
        assert_eq!(mul_add(a, a, 1e-30), half + f32::EPSILON);
        assert_eq!(mul_add(a, a, -half), 2f32.powi(-24));
        assert_eq!(mul_add(f32::MAX, 2.0, f32::NEG_INFINITY), f32::NEG_INFINITY);
    }
}
