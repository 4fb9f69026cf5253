use proptest::prelude::*;

use super::*;

fn encoded(plane: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    encode(plane, &count(plane), &mut encoded);
    encoded
}

/// Bytes that take few values, unevenly.
fn skewed(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).leading_zeros() as u8).wrapping_mul(3) ^ (i as u8 & 1))
        .collect()
}

#[test]
fn planes_of_every_length_come_back() {
    for len in (2..70).chain([1000, 4096, 65_535, 65_536]) {
        let plane = skewed(len);
        let mut back = vec![0; len];
        decode(&encoded(&plane), &mut back).expect("decodes");
        assert_eq!(back, plane, "{len} bytes");
    }
}

#[test]
fn it_comes_close_to_the_entropy() {
    let plane = skewed(1 << 17);
    let bits = entropy_bits(&count(&plane));
    let got = (encoded(&plane).len() - HEAD) as f32 * 8.0;
    assert!(got >= bits && got < bits * 1.05, "{got} bits, entropy {bits}");
}

#[test]
fn counting_counts() {
    let plane = skewed(1003);
    let counts = count(&plane);
    for byte in 0..=255u8 {
        assert_eq!(
            counts[usize::from(byte)] as usize,
            plane.iter().filter(|&&b| b == byte).count()
        );
    }
    assert_eq!(entropy_bits(&count(&[5; 100])), 0.0);
    assert_eq!(entropy_bits(&count(&[5, 6, 5, 6])), 4.0);
}

#[test]
fn what_is_cut_short_is_refused() {
    let plane = skewed(5000);
    let encoded = encoded(&plane);
    for len in [
        0,
        LENGTHS - 1,
        LENGTHS,
        HEAD - 1,
        HEAD,
        HEAD + 20,
        encoded.len() / 2,
        encoded.len() - PADDING,
    ] {
        assert!(decode(&encoded[..len], &mut vec![0; 5000]).is_err(), "{len} bytes");
    }
}

proptest! {
    #[test]
    fn any_plane_comes_back(plane in prop::collection::vec(any::<u8>(), 2..3000)) {
        prop_assume!(plane.iter().any(|&byte| byte != plane[0]));
        let mut back = vec![0; plane.len()];
        decode(&encoded(&plane), &mut back).expect("decodes");
        prop_assert_eq!(back, plane);
    }

    #[test]
    fn noise_is_an_error_or_some_plane(noise in prop::collection::vec(any::<u8>(), 0..600), len in 0..500usize) {
        let _ = decode(&noise, &mut vec![0; len]);
    }
}
