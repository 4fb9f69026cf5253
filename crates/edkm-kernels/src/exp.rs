//! The exponential function in a form that the compiler vectorises.

use pulp::Simd;

const LARGEST: f32 = 88.722_83; // just below ln(f32::MAX): the next f32 is above it
const SMALLEST: f32 = -87.336_54; // just above ln(f32::MIN_POSITIVE)
/// ln 2 in two parts: the first has so few bits that its product with n is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// Adding this number, 1.5 x 2^23, rounds to an integer and leaves that integer in the lowest bits.
const ROUND: f32 = 12_582_912.0;
/// A minimax fit of (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2, from the highest power down.
const POLYNOMIAL: [f32; 6] = [
    1.985_276_2e-4,
    1.393_043_6e-3,
    8.333_361e-3,
    4.166_648_5e-2,
    1.666_666_7e-1,
    0.5,
];
/// Bits of the fraction of an `f32`.
const FRACTION_BITS: u32 = 23;

/// e^x for `f32`, within 2 units in the last place of the exact value wherever that is a normal number.
///
/// No branches, no table, no conversion to integers: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial of degree 6 in r, and
/// n put into the exponent bits. Results below the smallest normal number (x < -87.34) are flushed to 0; x > 88.72 gives
/// infinity; NaN stays NaN.
///
/// # Source
///
/// The reduction in two parts is that of W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980).
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2[0], x);
    let r = n.mul_add(-LN_2[1], r);
    let mut p = POLYNOMIAL[0];
    for &coefficient in &POLYNOMIAL[1..] {
        p = p.mul_add(r, coefficient);
    }
    let y = (r * r).mul_add(p, r) + 1.0;
    // Multiplies by 2^n: n sits in the lowest bits of `shifted`, and y in 0.7..1.5 has an exponent to spare at both ends.
    let scaled = f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << FRACTION_BITS));
    // Beyond the ends, and for NaN, what was computed so far means nothing.
    let scaled = if x < SMALLEST { 0.0 } else { scaled };
    if x <= LARGEST {
        scaled
    } else {
        x * f32::INFINITY
    }
}

/// [`exp()`] of every lane of a vector, to the same bits: for loops that are written in vectors.
#[inline(always)]
pub(crate) fn exp_lanes<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let shifted = simd.mul_add_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), simd.splat_f32s(ROUND));
    let n = simd.sub_f32s(shifted, simd.splat_f32s(ROUND));
    let r = simd.mul_add_f32s(n, simd.splat_f32s(-LN_2[0]), x);
    let r = simd.mul_add_f32s(n, simd.splat_f32s(-LN_2[1]), r);
    let mut p = simd.splat_f32s(POLYNOMIAL[0]);
    for &coefficient in &POLYNOMIAL[1..] {
        p = simd.mul_add_f32s(p, r, simd.splat_f32s(coefficient));
    }
    let y = simd.add_f32s(simd.mul_add_f32s(simd.mul_f32s(r, r), p, r), simd.splat_f32s(1.0));
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(FRACTION_BITS));
    let scaled = simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(y), exponent));
    let scaled = simd.select_f32s(
        simd.less_than_f32s(x, simd.splat_f32s(SMALLEST)),
        simd.splat_f32s(0.0),
        scaled,
    );
    let beyond = simd.mul_f32s(x, simd.splat_f32s(f32::INFINITY));
    simd.select_f32s(
        simd.less_than_or_equal_f32s(x, simd.splat_f32s(LARGEST)),
        scaled,
        beyond,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::dispatch;

    /// The distance from the exact value in units of the last place of the `f32` nearest to it.
    fn units_off(x: f32) -> f64 {
        let exact = f64::from(x).exp();
        let nearest = exact as f32;
        let unit = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
        (f64::from(exp(x)) - exact).abs() / unit
    }

    #[test]
    fn stays_within_two_units_in_the_last_place() {
        // Steps of 0.0003 over the whole range, and finely around 0, where softmax lives.
        let coarse = (-291_000..295_600).map(|i| i as f32 * 3e-4);
        let fine = (-100_000..100_000).map(|i| i as f32 * 1e-5);
        let mut worst = (0.0, 0.0);
        for x in coarse.chain(fine) {
            let off = units_off(x);
            assert!(off <= 2.0, "exp({x}) is {off} units off");
            if off > worst.0 {
                worst = (off, x);
            }
        }
        println!("largest error: {} units in the last place, at {}", worst.0, worst.1);
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        // the last argument whose power there is, and the first that has none
        assert!(
            f64::from(LARGEST) < f64::from(f32::MAX).ln() && f64::from(LARGEST.next_up()) > f64::from(f32::MAX).ln()
        );
        assert!(units_off(LARGEST) <= 2.0, "{}", exp(LARGEST));
        assert_eq!(exp(LARGEST.next_up()), f32::INFINITY);
        assert!(exp(-87.3) >= f32::MIN_POSITIVE);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn vector_code_gives_the_same_bits() {
        let ends = [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            LARGEST,
            LARGEST.next_up(),
            SMALLEST,
            0.0,
        ];
        let x: Vec<f32> = (-9_000..9_000)
            .map(|i| i as f32 * 0.01)
            .chain(ends.into_iter().cycle().take(32))
            .collect();
        let mut vectorised = x.clone();
        dispatch(
            #[inline(always)]
            || vectorised.iter_mut().for_each(|x| *x = exp(*x)),
        );
        let mut lanes = x.clone();
        pulp::Arch::new().dispatch(Lanes(&mut lanes));
        for ((x, vectorised), lanes) in x.iter().zip(&vectorised).zip(&lanes) {
            // One bit pattern for all NaN.
            let bits = |x: f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
            assert_eq!(bits(*vectorised), bits(*lanes), "exp({x}) in a loop and in lanes");
            // outside of both it is the C library that multiplies and adds, and that of MinGW does not round once
            if cfg!(not(all(windows, target_env = "gnu"))) {
                assert_eq!(bits(exp(*x)), bits(*vectorised), "exp({x})");
            }
        }
    }

    struct Lanes<'a>(&'a mut [f32]);

    impl pulp::WithSimd for Lanes<'_> {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.0);
            vectors.iter_mut().for_each(|x| *x = exp_lanes(simd, *x));
            assert!(rest.is_empty());
        }
    }
}
