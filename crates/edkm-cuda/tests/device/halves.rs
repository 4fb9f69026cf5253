//! Numbers as 16-bit floats and back.

use edkm_cuda::halves::{self, Half};
use edkm_cuda::Array;
use half::{bf16, f16};

use crate::device::device;

#[test]
fn numbers_are_rounded_as_the_half_crate_does() {
    let Some(s) = device() else { return };
    let s = &s;
    let mut bits = 1u32;
    let mut numbers = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::from_bits(1)];
    // all kinds; ties; infinities and NaNs, those too that rounding would carry over into the sign; the largest before infinity
    while numbers.len() < 5000 {
        bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        numbers.extend(
            [
                bits,
                bits & 0xffff_8000,
                bits | 0x7f80_0000,
                bits | 0x7fff_8000,
                bits | 0x7f7f_8000,
            ]
            .map(f32::from_bits),
        );
    }
    let x = s.array(&numbers);
    for kind in [Half::Bf16, Half::F16] {
        let Ok(mut rounded) = Array::<_, u16>::unset(s, numbers.len());
        let Ok(()) = halves::round(s, x.as_slice(), kind, rounded.as_mut());
        let Ok(rounded) = rounded.to_host(s);
        for (&x, &got) in numbers.iter().zip(&rounded) {
            match kind {
                Half::Bf16 => assert_eq!(got, bf16::from_f32(x).to_bits(), "{x:e}"),
                Half::F16 if x.is_nan() => assert!(f16::from_bits(got).is_nan(), "{x:e}"),
                Half::F16 => assert_eq!(got, f16::from_f32(x).to_bits(), "{x:e}"),
            }
        }
    }
}

#[test]
fn numbers_of_16_bits_are_widened_exactly() {
    let Some(s) = device() else { return };
    let s = &s;
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let Ok(halves) = Array::from_host(s, &all);
    for kind in [Half::Bf16, Half::F16] {
        let mut wide = s.array(&vec![0.0; all.len()]);
        let Ok(()) = halves::widen(s, halves.as_slice(), kind, wide.as_mut());
        let Ok(wide) = wide.to_host(s);
        for (&half, got) in all.iter().zip(wide) {
            let want = match kind {
                Half::Bf16 => f32::from_bits(u32::from(half) << 16),
                Half::F16 => f16::from_bits(half).to_f32(),
            };
            // what comes of a NaN is one
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{half:#x}: {got}"
            );
        }
    }
}
