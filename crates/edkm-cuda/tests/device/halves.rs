//! Numbers as bf16 and back.

use edkm_cuda::{bf16, Array};

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
    let Ok(mut halves) = Array::<_, u16>::unset(s, numbers.len());
    let Ok(()) = bf16::round(s, x.as_slice(), halves.as_mut());
    let Ok(got) = halves.to_host(s);
    let want: Vec<u16> = numbers.iter().map(|&x| half::bf16::from_f32(x).to_bits()).collect();
    assert_eq!(got, want);

    let mut back = s.array(&vec![0.0; numbers.len()]);
    let Ok(()) = bf16::widen(s, halves.as_slice(), back.as_mut());
    let Ok(back) = back.to_host(s);
    for (back, half) in back.iter().zip(got) {
        assert_eq!(back.to_bits(), u32::from(half) << 16);
    }
}
