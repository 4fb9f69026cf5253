//! What the fuzz targets check. The targets in `fuzz` call it with what the fuzzer finds, the tests here with damaged seeds.

use std::sync::Arc;

use edkm_store::{expand, Backend, Codec, DType, PlaneCodec, Record, Store, StoreSpec, Ticket, Unique};

/// Whatever the bytes, decoding them is an error or fills the output.
///
/// Input: element size, output length (u16 LE), encoded bytes.
pub(crate) fn decode_planes(input: &[u8]) {
    let Some((&[size, low, high], encoded)) = input.split_first_chunk() else {
        return;
    };
    let mut out = vec![0; usize::from(u16::from_le_bytes([low, high]))];
    let _ = PlaneCodec::Adaptive.decode(encoded, usize::from(size), &mut out);
}

/// Whatever the index and the table, putting rows together is an error or every row is one of the table's.
///
/// Input: bytes of a row, bits of an index entry, rows (u16 LE), rows of the table, table, index.
pub(crate) fn expand_rows(input: &[u8]) {
    let Some((&[row_bytes, bits, low, high, distinct], rest)) = input.split_first_chunk() else {
        return;
    };
    let row_bytes = usize::from(row_bytes);
    let (table, index) = rest.split_at((row_bytes * usize::from(distinct)).min(rest.len()));
    let mut rows = vec![0; row_bytes * usize::from(u16::from_le_bytes([low, high]))];
    if expand(table, row_bytes, index, u32::from(bits), &mut rows).is_ok() && row_bytes > 0 {
        for row in rows.chunks_exact(row_bytes).take(64) {
            assert!(table.chunks_exact(row_bytes).any(|of_table| of_table == row));
        }
    }
}

/// Whatever the words, they are refused or they read back as they are written.
pub(crate) fn parse_spec(input: &[u8]) {
    let Ok(words) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(spec) = words.parse::<StoreSpec>() {
        assert_eq!(spec.to_string().parse::<StoreSpec>().expect("what was written"), spec);
    }
}

/// What was encoded or taken apart comes back.
///
/// Input: element size and bytes of a row, bytes.
pub(crate) fn round_trip(input: &[u8]) {
    let Some((&[size], bytes)) = input.split_first_chunk() else {
        return;
    };
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
}

/// Whatever goes into a stack of layers comes out as it was, in whatever order it is asked for, and then nothing is held.
///
/// Input: the layers (a bit each), the spill budget in units of 64 bytes, then records: an action, their length (u16 LE), a byte that they are
/// made of.
pub(crate) fn whole_store(input: &[u8]) {
    let Some((&[layers, budget], actions)) = input.split_first_chunk() else {
        return;
    };
    let mut builder = Store::builder();
    if layers & 1 != 0 {
        builder = builder.marshal();
    }
    if layers & 2 != 0 {
        builder = builder.uniquify();
    }
    if layers & 4 != 0 {
        builder = builder.compress(PlaneCodec::Adaptive);
    }
    if layers & 8 != 0 {
        builder = builder.spill(std::env::temp_dir(), 64 * u64::from(budget));
    }
    let store = builder.build().expect("a legal order");
    let mut open: Vec<(Ticket, Vec<u16>)> = Vec::new();
    for &[action, low, high, byte] in actions.as_chunks::<4>().0 {
        let which = usize::from(byte) % open.len().max(1);
        match action % 4 {
            // runs and noise, in rows of eight
            0 | 1 => {
                let len = usize::from(u16::from_le_bytes([low, high])) / 8 * 8;
                let value = |i: usize| {
                    let run = (i as u16 / 64).wrapping_mul(u16::from(byte) * 2 + 1);
                    run.rotate_left(u32::from(action))
                };
                let values: Vec<u16> = (0..len).map(value).collect();
                let record = Record::new(Arc::new(values.clone()), DType::U16, [len / 8, 8], "record");
                open.push((store.save(record).expect("saved"), values));
            }
            2 if !open.is_empty() => {
                let (ticket, values) = open.swap_remove(which);
                let loaded = ticket.load().expect("loaded");
                let pairs = loaded.as_bytes().chunks_exact(2);
                assert!(pairs.map(|b| u16::from_le_bytes([b[0], b[1]])).eq(values));
            }
            3 if !open.is_empty() => drop(open.swap_remove(which)),
            _ => {}
        }
    }
    drop(open);
    let report = store.report();
    assert_eq!((report.held_bytes, report.held_count, report.disk_bytes), (0, 0, 0));
}
