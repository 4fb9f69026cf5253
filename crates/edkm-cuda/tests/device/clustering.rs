//! The passes over clustered weights against their definitions, on the device of the build.

use crate::device::{device, Device};
use edkm_cuda::clustering::{count, look_up, multiply_add, sum_by_key, Counts, Half, Palettes, KEYS};
use edkm_testkit::assert_bitwise_equal;
use half::{bf16, f16};

fn key(half: Half, weight: f32) -> usize {
    usize::from(match half {
        Half::Bf16 => bf16::from_f32(weight).to_bits(),
        Half::F16 => f16::from_f32(weight).to_bits(),
    })
}

/// Weights of all sizes, of both signs, inside and outside the shared window, subnormal in f16, halfway between keys, and zeros.
fn weights(len: usize) -> Vec<f32> {
    let ties = [
        0.0,
        -0.0,
        1.5,
        2.0,
        -3.0,
        2f32.powi(-24),
        2f32.powi(-25),
        3.0 * 2f32.powi(-25),
        6.1e-5,
        65519.9,
        1.0 + 2f32.powi(-8),
        1.0 + 2f32.powi(-11),
    ];
    (0..len)
        .map(|i| match ties.get(i) {
            Some(&weight) => weight,
            None => ((i * 7919 % 4001) as f32 - 2000.0) * 1e-5 * 2f32.powi(i as i32 % 23 - 12),
        })
        .collect()
}

/// Of one palette.
fn counted(s: &Device, weights: &[f32], half: Half) -> Counts {
    let Ok(mut counts) = count(s, Palettes::one(s.array(weights).as_slice(), half));
    assert_eq!(counts.len(), 1);
    counts.remove(0)
}

fn summed(s: &Device, weights: &[f32], half: Half, addends: &[f32]) -> Vec<f64> {
    let (weights, addends) = (s.array(weights), s.array(addends));
    let Ok(mut sums) = sum_by_key(s, Palettes::one(weights.as_slice(), half), addends.as_slice());
    assert_eq!(sums.len(), 1);
    sums.remove(0)
}

/// Several palettes at once, of which the last has fewer weights, give what each gives by itself.
#[test]
fn palettes_do_not_mix() {
    let Some(s) = device() else { return };
    let (half, of_each, len) = (Half::Bf16, 300, 800);
    let weights = weights(len);
    let addends: Vec<f32> = (0..len).map(|i| (i * 31 % 1009) as f32 - 500.0).collect();
    let (dweights, daddends) = (s.array(&weights), s.array(&addends));
    let all = Palettes::new(dweights.as_slice(), of_each, half);
    let (Ok(counts), Ok(sums)) = (count(&s, all), sum_by_key(&s, all, daddends.as_slice()));
    let parts: Vec<_> = all.parts(2).map(|(first, part)| (first, part.palettes())).collect();
    assert_eq!(parts, [(0, 2), (2, 1)]);
    for (palette, (counts, sums)) in counts.iter().zip(&sums).enumerate() {
        let range = all.weights_of(palette, 1);
        assert_eq!(*counts, counted(&s, &weights[range.clone()], half));
        assert_eq!(*sums, summed(&s, &weights[range.clone()], half, &addends[range]));
    }
}

#[test]
fn counts_are_those_of_the_rounded_weights() {
    let Some(s) = device() else { return };
    for half in [Half::Bf16, Half::F16] {
        for len in [1, 12, 300, 40_000] {
            let weights = weights(len);
            let mut want = vec![0u32; KEYS];
            weights.iter().for_each(|&weight| want[key(half, weight)] += 1);
            let got = counted(&s, &weights, half);
            assert_eq!(got.counts, want, "{half:?} {len}");
            let largest = weights.iter().map(|w| w.to_bits() & 0x7fff_ffff).max().unwrap();
            assert_eq!(got.magnitude_bits, largest);
        }
        let bad = counted(&s, &[1.0, f32::NAN, f32::INFINITY], half);
        assert!(bad.magnitude_bits > f32::INFINITY.to_bits());
    }
}

#[test]
fn sums_by_key_are_exact_to_their_unit() {
    let Some(s) = device() else { return };
    for half in [Half::Bf16, Half::F16] {
        for (len, size) in [(1, 1.0), (300, 1e-30), (32_768, 1.0), (40_000, 3e3)] {
            let weights = weights(len);
            let addends: Vec<f32> = (0..len).map(|i| ((i * 31 % 1009) as f32 - 500.0) * size).collect();
            let mut want = vec![0.0f64; KEYS];
            for (&weight, &addend) in weights.iter().zip(&addends) {
                want[key(half, weight)] += f64::from(addend);
            }
            let got = summed(&s, &weights, half, &addends);
            let unit = f64::from(size) * 1024.0 * (-33f64).exp2();
            for key in 0..KEYS {
                let error = (got[key] - want[key]).abs();
                assert!(
                    error <= unit / 2.0 * len as f64,
                    "{half:?} {len}: key {key} is {error:e} off, unit {unit:e}"
                );
            }
        }
        let weights = weights(3);
        let sums = |addends: [f32; 3]| summed(&s, &weights, half, &addends);
        assert!(sums([0.0; 3]).iter().all(|&sum| sum == 0.0));
        assert!(sums([1.0, f32::NAN, 1.0]).iter().all(|sum| sum.is_nan()));
    }
}

#[test]
fn tables_are_looked_up_by_key() {
    let Some(s) = device() else { return };
    // 2 blocks, 16, which take turns, and 20, which do not divide by eight
    for (half, len) in [
        (Half::Bf16, 3000),
        (Half::F16, 3000),
        (Half::Bf16, 32_768),
        (Half::F16, 40_000),
    ] {
        let weights = weights(len);
        let dweights = s.array(&weights);
        let table: Vec<f32> = (0..KEYS).map(|key| key as f32 * 0.5).collect();
        let mut out = s.array(&vec![f32::NAN; weights.len()]);
        let Ok(()) = look_up(&s, Palettes::one(dweights.as_slice(), half), &table, out.as_mut());
        let want: Vec<f32> = weights.iter().map(|&weight| table[key(half, weight)]).collect();
        let Ok(got) = out.to_host(&s);
        assert_bitwise_equal("look_up", &got, &want);

        let pairs: Vec<[f32; 2]> = (0..KEYS).map(|key| [key as f32, -0.25 * key as f32]).collect();
        let (grad, before) = (vec![0.75f32; weights.len()], vec![3.0f32; weights.len()]);
        let (dgrad, mut total) = (s.array(&grad), s.array(&before));
        let Ok(()) = multiply_add(
            &s,
            Palettes::one(dweights.as_slice(), half),
            &pairs,
            dgrad.as_slice(),
            total.as_mut(),
        );
        let want: Vec<f32> = weights
            .iter()
            .map(|&weight| {
                let [slope, shift] = pairs[key(half, weight)];
                3.0 + (0.75 * slope + shift)
            })
            .collect();
        let Ok(got) = total.to_host(&s);
        assert_bitwise_equal("multiply_add", &got, &want);
    }
}
