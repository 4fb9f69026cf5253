//! Weights as 16-bit keys: rounding, and the order and value of keys.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use crate::HalfKind;

/// Number of 16-bit keys.
pub(crate) const KEYS: usize = 1 << 16;

/// Weights that are rounded at once, into a buffer that stays in the first-level cache.
pub(crate) const BLOCK: usize = 512;

const SIGN: u16 = 0x8000;

impl HalfKind {
    /// Rounds up to [`BLOCK`] weights to nearest, ties to even.
    ///
    /// What rounds to infinity gets the key of infinity. A NaN gets some key.
    #[inline(always)]
    pub(crate) fn round(self, weights: &[f32], keys: &mut [u16; BLOCK]) {
        let keys = &mut keys[..weights.len()];
        match self {
            HalfKind::Bf16 => {
                for (key, weight) in keys.iter_mut().zip(weights) {
                    let bits = weight.to_bits();
                    // Adding just under half, or half where the kept part is odd, carries exactly when it should round up.
                    *key = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
                }
            }
            HalfKind::F16 => keys.reinterpret_cast_mut::<f16>().convert_from_f32_slice(weights),
        }
    }

    /// The values of keys in f32, which holds them exactly.
    #[inline(always)]
    pub(crate) fn widen(self, keys: &[u16], values: &mut [f32]) {
        match self {
            HalfKind::Bf16 => {
                for (value, &key) in values.iter_mut().zip(keys) {
                    *value = f32::from_bits(u32::from(key) << 16);
                }
            }
            HalfKind::F16 => keys.reinterpret_cast::<f16>().convert_to_f32_slice(values),
        }
    }

    /// The value of a key.
    pub(crate) fn value(self, key: u16) -> f64 {
        match self {
            HalfKind::Bf16 => bf16::from_bits(key).to_f64(),
            HalfKind::F16 => f16::from_bits(key).to_f64(),
        }
    }

    /// A weight rounded to the format.
    pub(crate) fn rounded(self, weight: f32) -> f64 {
        match self {
            HalfKind::Bf16 => bf16::from_f32(weight).to_f64(),
            HalfKind::F16 => f16::from_f32(weight).to_f64(),
        }
    }

    /// The largest finite magnitude as a key.
    pub(crate) fn largest_key(self) -> u16 {
        match self {
            HalfKind::Bf16 => bf16::MAX.to_bits(),
            HalfKind::F16 => f16::MAX.to_bits(),
        }
    }

    /// The smallest f32 magnitude, as bits, that does not round to a finite number. All larger bits, NaN included, do not either.
    pub fn first_unusable_bits(self) -> u32 {
        match self {
            HalfKind::Bf16 => 0x7f7f_8000,
            // 65520, half way between the largest number and the next.
            HalfKind::F16 => 0x477f_f000,
        }
    }

    /// The first weight that does not round to a finite number.
    pub(crate) fn first_unusable(self, weights: &[f32]) -> Option<usize> {
        weights
            .iter()
            .position(|w| magnitude_bits(*w) >= self.first_unusable_bits())
    }
}

/// The bits of a weight without its sign; they grow with the magnitude, NaN above all.
#[inline(always)]
pub(crate) fn magnitude_bits(weight: f32) -> u32 {
    weight.to_bits() & 0x7fff_ffff
}

/// Whether the key is zero, of either sign.
pub(crate) fn is_zero(key: u16) -> bool {
    key & !SIGN == 0
}

/// A number that orders keys by their value (negative zero just below zero).
pub(crate) fn rank(key: u16) -> u16 {
    if key & SIGN == 0 {
        key | SIGN
    } else {
        !key
    }
}

/// The key of a [`rank`].
pub(crate) fn from_rank(rank: u16) -> u16 {
    if rank & SIGN == 0 {
        !rank
    } else {
        rank & !SIGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(half: HalfKind, weight: f32) -> u16 {
        let mut keys = [0; BLOCK];
        half.round(&[weight], &mut keys);
        keys[0]
    }

    #[test]
    fn rounding_is_that_of_the_formats() {
        let mut bits = 0x1234_5678u32;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
            let weight = f32::from_bits(bits);
            if !weight.is_nan() {
                assert_eq!(
                    round(HalfKind::Bf16, weight),
                    bf16::from_f32(weight).to_bits(),
                    "{weight:e}"
                );
                assert_eq!(
                    round(HalfKind::F16, weight),
                    f16::from_f32(weight).to_bits(),
                    "{weight:e}"
                );
            }
        }
    }

    #[test]
    fn the_first_unusable_magnitude_is_the_first() {
        for half in [HalfKind::Bf16, HalfKind::F16] {
            let first = half.first_unusable_bits();
            assert!(half.rounded(f32::from_bits(first)).is_infinite());
            assert!(half.rounded(f32::from_bits(first - 1)).is_finite());
            let weights = [1.0, f32::from_bits(first - 1), -f32::from_bits(first), f32::NAN];
            assert_eq!(half.first_unusable(&weights), Some(2));
            assert_eq!(half.first_unusable(&[0.0, f32::NAN]), Some(1));
            assert_eq!(half.first_unusable(&weights[..2]), None);
        }
    }

    #[test]
    fn ranks_order_values() {
        for half in [HalfKind::Bf16, HalfKind::F16] {
            let largest = half.largest_key();
            let finite: Vec<u16> = (0..=u16::MAX)
                .map(from_rank)
                .filter(|key| key & !SIGN <= largest)
                .collect();
            assert_eq!(finite.len(), 2 * (largest as usize + 1));
            assert!(finite
                .windows(2)
                .all(|w| half.value(w[0]) < half.value(w[1]) || is_zero(w[0])));
        }
        assert!((0..=u16::MAX).all(|key| from_rank(rank(key)) == key));
    }
}
