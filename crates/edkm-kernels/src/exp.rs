//! The exponential function in a form that the compiler vectorises.

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
    const LARGEST: f32 = 88.722_84; // just below ln(f32::MAX)
    const SMALLEST: f32 = -87.336_54; // just above ln(f32::MIN_POSITIVE)
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts: the first has so few bits that its product with n is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding this number rounds to an integer and leaves the integer in the lowest bits: 1.5 x 2^23.
    const ROUND: f32 = 12_582_912.0;

    // In this form a NaN passes through, which `clamp` and `min` do not promise of vector code.
    let clamped = if x > LARGEST { LARGEST } else { x };
    let clamped = if clamped < SMALLEST { SMALLEST } else { clamped };

    let shifted = clamped.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_HIGH, clamped);
    let r = n.mul_add(-LN_2_LOW, r);

    // 1 + r + r^2 p(r), with p from a minimax fit of (e^r - 1 - r) / r^2.
    let p = 1.985_276_2e-4f32;
    let p = p.mul_add(r, 1.393_043_6e-3);
    let p = p.mul_add(r, 8.333_361e-3);
    let p = p.mul_add(r, 4.166_648_5e-2);
    let p = p.mul_add(r, 1.666_666_7e-1);
    let p = p.mul_add(r, 0.5);
    let y = (r * r).mul_add(p, r) + 1.0;

    // Multiplies by 2^n: n sits in the lowest bits of `shifted`, and y in 0.7..1.5 has an exponent to spare at both ends.
    let scaled = f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23));
    let scaled = if x < SMALLEST { 0.0 } else { scaled };
    if x <= LARGEST {
        scaled
    } else {
        x * f32::INFINITY
    }
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
        assert!(exp(88.72).is_finite());
        assert!(exp(-87.3) >= f32::MIN_POSITIVE);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn vector_code_gives_the_same_bits() {
        let x: Vec<f32> = (-9_000..9_000)
            .map(|i| i as f32 * 0.01)
            .chain([f32::NAN, f32::INFINITY])
            .collect();
        let mut vector = x.clone();
        dispatch(
            #[inline(always)]
            || vector.iter_mut().for_each(|x| *x = exp(*x)),
        );
        for (x, y) in x.iter().zip(&vector) {
            assert_eq!(exp(*x).to_bits(), y.to_bits(), "exp({x})");
        }
    }
}
