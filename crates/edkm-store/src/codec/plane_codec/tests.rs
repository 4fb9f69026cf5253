use super::*;

const CODECS: [PlaneCodec; 2] = [PlaneCodec::Adaptive, PlaneCodec::Lz4];

/// Pseudo-random 64-bit numbers (splitmix64).
fn noise(len: usize) -> Vec<u8> {
    let number = |i: u64| {
        let x = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
    };
    (1..=len.div_ceil(8) as u64)
        .flat_map(|i| number(i).to_le_bytes())
        .take(len)
        .collect()
}

/// Floats of all signs and of magnitudes near one.
fn floats(count: usize) -> Vec<u8> {
    let uniform = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes) as f32 / u64::MAX as f32 - 0.5;
    noise(count * 8)
        .as_chunks::<8>()
        .0
        .iter()
        .flat_map(|bytes| (uniform(bytes) * 4.0).to_le_bytes())
        .collect()
}

fn assert_comes_back(codec: PlaneCodec, bytes: &[u8], size: usize) -> Option<usize> {
    let encoded = codec.encode(bytes, size)?;
    assert!(encoded.len() < bytes.len());
    let mut back = vec![0xaa; bytes.len()];
    codec.decode(&encoded, size, &mut back).expect("decodes");
    assert!(back == bytes, "{codec:?}, {} bytes in elements of {size}", bytes.len());
    Some(encoded.len())
}

#[test]
fn floats_shrink_and_come_back_at_every_length() {
    let bytes = floats(BLOCK / 2);
    for codec in CODECS {
        for len in [
            256,
            257,
            4095,
            4096,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            BLOCK + 4,
            BLOCK + 7,
            2 * BLOCK,
        ] {
            for size in [1, 2, 3, 4, 8] {
                assert_comes_back(codec, &bytes[..len], size);
            }
        }
        let kept = assert_comes_back(codec, &bytes, 4).expect("exponents are alike");
        assert!(kept < bytes.len() * 19 / 20, "{codec:?} kept {kept} of {}", bytes.len());
    }
}

#[test]
fn noise_stays_raw() {
    for codec in CODECS {
        for len in [0, 1, 7, 1000, 1 << 20, 3 << 20] {
            assert_eq!(codec.encode(&noise(len), 4), None, "{len} bytes");
        }
    }
}

#[test]
fn constants_nearly_vanish() {
    for codec in CODECS {
        let kept = assert_comes_back(codec, &vec![0; 1 << 22], 4).expect("shrinks");
        assert!(kept < 1000, "{kept}");
    }
}

#[test]
fn repetition_is_for_lz4_and_skew_for_huffman() {
    let forms = |bytes: &[u8]| {
        let encoded = PlaneCodec::Adaptive.encode(bytes, 1).expect("shrinks");
        u32::from_le_bytes([encoded[0], encoded[1], encoded[2], encoded[3]]) >> LEN_BITS
    };
    let repeating: Vec<u8> = noise(1000).repeat(100);
    assert_eq!(forms(&repeating), Form::Lz4 as u32);
    let skewed: Vec<u8> = noise(100_000).iter().map(|byte| byte.leading_zeros() as u8).collect();
    assert_eq!(forms(&skewed), Form::Huffman as u32);
}

#[test]
fn what_is_cut_short_or_continued_is_refused() {
    for codec in CODECS {
        for bytes in [floats(5000), noise(100).repeat(200)] {
            let encoded = codec.encode(&bytes, 4).expect("shrinks");
            let mut out = vec![0; bytes.len()];
            for len in 0..encoded.len().min(300) {
                assert!(
                    codec.decode(&encoded[..len], 4, &mut out).is_err(),
                    "{len} of {} bytes",
                    encoded.len()
                );
            }
            let longer = [&encoded[..], &[0]].concat();
            assert!(codec.decode(&longer, 4, &mut out).is_err());
            assert!(codec.decode(&encoded, 4, &mut out[4..]).is_err());
        }
    }
}

#[test]
fn rows_of_noise_that_repeat_are_found_in_every_plane() {
    for row in [64, 1024, 4096] {
        let bytes = noise(row * 4).repeat(BLOCK / 4 / row * 2);
        for codec in CODECS {
            let kept = assert_comes_back(codec, &bytes, 4).expect("rows repeat");
            // one row a block and plane stands as it is, and the copies of it cost little
            assert!(
                kept < bytes.len() / 10,
                "{codec:?} kept {kept} of {} with rows of {row}",
                bytes.len()
            );
        }
    }
}
