//! Whatever goes into a stack of layers comes out as it was, in whatever order it is asked for, and then nothing is held.
//!
//! Input: the layers (a bit each), the spill budget in units of 64 bytes, then records: an action, their length (u16 LE), a byte that they are
//! made of.
#![no_main]

use std::sync::Arc;

use edkm_store::{Backend, DType, PlaneCodec, Record, Store, Ticket};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&[layers, budget], actions)) = input.split_first_chunk() else { return };
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
                let value = |i: usize| (i as u16 / 64).wrapping_mul(u16::from(byte) * 2 + 1).rotate_left(u32::from(action));
                let values: Vec<u16> = (0..len).map(value).collect();
                let record = Record::new(Arc::new(values.clone()), DType::U16, [len / 8, 8], "record");
                open.push((store.save(record).expect("saved"), values));
            }
            2 if !open.is_empty() => {
                let (ticket, values) = open.swap_remove(which);
                let loaded = ticket.load().expect("loaded");
                assert!(loaded.as_bytes().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).eq(values));
            }
            3 if !open.is_empty() => drop(open.swap_remove(which)),
            _ => {}
        }
    }
    drop(open);
    let report = store.report();
    assert_eq!((report.held_bytes, report.held_count, report.disk_bytes), (0, 0, 0));
});
