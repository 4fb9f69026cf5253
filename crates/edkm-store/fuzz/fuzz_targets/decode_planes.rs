//! Whatever the bytes, decoding them is an error or fills the output.
//!
//! Input: element size, output length (u16 LE), encoded bytes.
#![no_main]

use edkm_store::{Codec, PlaneCodec};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&[size, low, high], encoded)) = input.split_first_chunk() else { return };
    let mut out = vec![0; usize::from(u16::from_le_bytes([low, high]))];
    let _ = PlaneCodec::Adaptive.decode(encoded, usize::from(size), &mut out);
});
