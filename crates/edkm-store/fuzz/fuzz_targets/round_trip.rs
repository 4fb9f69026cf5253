//! What was encoded or taken apart comes back.
//!
//! Input: element size and bytes of a row, bytes.
#![no_main]

use edkm_store::{expand, Codec, PlaneCodec, Unique};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&[size], bytes)) = input.split_first_chunk() else { return };
    let size = usize::from(size);
    for codec in [PlaneCodec::Adaptive, PlaneCodec::Lz4] {
        if let Some(encoded) = codec.encode(bytes, size) {
            assert!(encoded.len() < bytes.len());
            let mut back = vec![0; bytes.len()];
            codec.decode(&encoded, size, &mut back).expect("its own bytes");
            assert!(back == bytes);
        }
    }
    if let Some(unique) = Unique::of_rows(bytes, size, None) {
        let row = |&first: &u32| &bytes[first as usize * size..][..size];
        let table: Vec<u8> = unique.first_rows.iter().flat_map(row).copied().collect();
        assert!(table.len() + unique.index.len() < bytes.len());
        let mut back = vec![0; bytes.len()];
        expand(&table, size, &unique.index, unique.bits, &mut back).expect("its own index");
        assert!(back == bytes);
    }
});
