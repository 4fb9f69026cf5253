//! What comes out of a store is what went in, for any tensor and any legal stack, and afterwards nothing is held.

mod common;

use std::sync::Arc;

use common::{assert_empty, bytes_of};
use edkm_store::{
    in_process_learners, Backend, DType, Placement, PlaneCodec, Precision, Record, SharedBytes, Store, StoreSpec,
    DEFAULT_PATIENCE,
};
use proptest::prelude::*;

/// Every subset of the layers in their order, with and without overlap, by description. The learner is alone in its group.
fn stacks() -> Vec<(String, Store)> {
    let spill = format!("spill={}:4KiB", std::env::temp_dir().display());
    let layers = ["marshal", "uniquify", "shard", "compress", &spill, "overlap=20000"];
    let subsets = 0..1u32 << layers.len();
    let stack = |subset: u32| {
        let chosen = layers
            .iter()
            .enumerate()
            .filter(|(i, _)| subset >> i & 1 == 1)
            .map(|(_, layer)| *layer);
        let words: Vec<&str> = std::iter::once("memory").chain(chosen).collect();
        let spec: StoreSpec = words.join(",").parse().expect("words that are understood");
        let learner = in_process_learners(1, DEFAULT_PATIENCE).remove(0);
        (spec.to_string(), spec.build_for(learner).expect("a legal stack"))
    };
    subsets.map(stack).collect()
}

/// Any element type.
fn dtypes() -> impl Strategy<Value = DType> {
    prop::sample::select(vec![
        DType::F32,
        DType::F64,
        DType::F16,
        DType::Bf16,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::I8,
        DType::I32,
        DType::I64,
    ])
}

/// What tensors are like: noise, constants, repeated rows with and without keys, smooth floats; and no rows at all.
#[derive(Debug, Clone, Copy)]
enum Content {
    Noise,
    Constant,
    Rows { distinct: u16 },
    Smooth,
}

fn contents() -> impl Strategy<Value = Content> {
    prop_oneof![
        Just(Content::Noise),
        Just(Content::Constant),
        (1..300u16).prop_map(|distinct| Content::Rows { distinct }),
        Just(Content::Smooth),
    ]
}

fn records() -> impl Strategy<Value = Record> {
    let shapes = prop_oneof![
        prop::collection::vec(0..40usize, 0..4),
        (0..4000usize, 1..9usize).prop_map(|(rows, columns)| vec![rows, columns]),
    ];
    (contents(), dtypes(), shapes, any::<u64>(), any::<bool>(), any::<bool>()).prop_map(
        |(content, dtype, shape, seed, keyed, replicated)| {
            let len = shape.iter().product::<usize>() * dtype.size();
            let rows = shape.first().copied().unwrap_or(1);
            let row_bytes = len.checked_div(rows).unwrap_or(0);
            let mut keys = None;
            let bytes = match content {
                Content::Noise => bytes_of(seed, len),
                Content::Constant => vec![seed as u8; len],
                Content::Smooth => (0..len)
                    .map(|i| ((i / dtype.size()) as f32).sqrt().to_le_bytes()[i % 4])
                    .collect(),
                Content::Rows { distinct } => {
                    let of_row: Vec<u16> = (0..rows)
                        .map(|row| ((row as u64).wrapping_mul(seed | 1) % u64::from(distinct)) as u16)
                        .collect();
                    let bytes = of_row
                        .iter()
                        .flat_map(|&key| bytes_of(u64::from(key), row_bytes))
                        .collect();
                    keys = keyed.then_some(of_row);
                    bytes
                }
            };
            let record = Record::new(Arc::new(bytes), dtype, shape, "tensor").with_precision(Precision::Exact);
            let record = record.with_placement(if replicated {
                Placement::Replicated
            } else {
                Placement::Local
            });
            match keys {
                Some(keys) => record.with_keys(Arc::new(keys)),
                None => record,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_stack_gives_back_what_it_was_given(
        records in prop::collection::vec(records(), 1..6),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        dropped in any::<prop::sample::Index>(),
    ) {
        for (name, store) in stacks() {
            let saved: Vec<&Record> = records.iter().chain(again.iter().map(|index| index.get(&records))).collect();
            let quotes_then_tickets = saved.iter().map(|record| {
                let quote = store.quote(record);
                let ticket = store.save((*record).clone()).expect("saved");
                prop_assert_eq!(quote.logical_bytes, record.len_bytes());
                prop_assert_eq!(quote.kept_bytes, ticket.kept_bytes(), "{} said one thing and did another", name);
                Ok(ticket)
            });
            let tickets = quotes_then_tickets.collect::<Result<Vec<_>, TestCaseError>>()?;
            let report = store.report();
            prop_assert_eq!(report.held_count, saved.len() as u64);
            prop_assert_eq!(report.logical_bytes, saved.iter().map(|record| record.len_bytes() as u64).sum::<u64>());
            prop_assert_eq!(report.held_bytes + report.disk_bytes, tickets.iter().map(|t| t.kept_bytes() as u64).sum::<u64>());
            let dropped = dropped.index(saved.len());
            for (i, (ticket, record)) in tickets.into_iter().zip(&saved).enumerate().rev() {
                if i == dropped {
                    drop(ticket);
                    continue;
                }
                let loaded = ticket.load().expect("loaded");
                prop_assert!(loaded.as_bytes() == record.bytes.as_bytes(), "{} altered {:?}", name, record);
            }
            assert_empty(&store.report(), &name);
        }
    }
}

#[test]
fn dropping_everything_halfway_frees_everything() {
    for (name, store) in stacks() {
        let save = |i: u64| {
            let bytes = bytes_of(i % 3, 40_000);
            store
                .save(Record::new(Arc::new(bytes), DType::F32, [10_000], "x"))
                .expect("saved")
        };
        let mut tickets: Vec<_> = (0..10).map(save).collect();
        for ticket in tickets.drain(5..).rev() {
            ticket.load().expect("loaded");
        }
        drop(tickets);
        assert_empty(&store.report(), &name);
    }
}

#[test]
fn two_hundred_steps_hold_no_more_than_two() {
    for (name, store) in stacks() {
        let step = |step: u64| {
            let save = |i: u64| {
                let record = Record::new(Arc::new(bytes_of(step * 7 + i % 4, 8192)), DType::F32, [64, 32], "x");
                store.save(record).expect("saved")
            };
            let tickets: Vec<_> = (0..6).map(save).collect();
            tickets
                .into_iter()
                .rev()
                .for_each(|ticket| drop(ticket.load().expect("loaded")));
            assert_empty(&store.report(), &name);
        };
        (0..2).for_each(step);
        let early = store.report().peak_bytes;
        (2..200).for_each(step);
        // How much of one step is fetched before the next record is stored depends on the threads' timing.
        assert!(store.report().peak_bytes <= early.max(6 * 8192), "{name}");
    }
}

#[test]
fn what_need_not_be_rebuilt_is_the_very_value() {
    for store in [Store::memory(), Store::marshaling()] {
        let value: Arc<dyn SharedBytes> = Arc::new(vec![1.5f32; 100]);
        let ticket = store
            .save(Record::new(value.clone(), DType::F32, [100], "x"))
            .expect("saved");
        assert!(Arc::ptr_eq(&ticket.load().expect("loaded"), &value));
    }
}

#[test]
fn what_is_rebuilt_is_a_vec_of_the_element_type() {
    let stores = stacks()
        .into_iter()
        .filter(|(name, _)| name.contains("compress") || name.contains("uniquify"));
    for (name, store) in stores {
        let value = vec![1.5f32; 8192];
        let ticket = store
            .save(Record::new(Arc::new(value.clone()), DType::F32, [1024, 8], "x"))
            .expect("saved");
        assert!(ticket.kept_bytes() < 4096, "{name}");
        let vec = edkm_store::downcast::<Vec<f32>>(ticket.load().expect("loaded")).expect("a Vec<f32>");
        assert_eq!(*vec, value, "{name}");
    }
}

#[test]
fn readers_at_the_same_time_share_what_is_rebuilt() {
    let store = Store::builder()
        .marshal()
        .compress(PlaneCodec::Adaptive)
        .build()
        .expect("legal");
    let record = Record::new(Arc::new(vec![1.5f32; 8192]), DType::F32, [8192], "x");
    let tickets = [(); 3].map(|()| store.save(record.clone()).expect("saved"));
    drop(record);
    let [first, second, third] = tickets.map(|ticket| ticket.load().expect("loaded"));
    assert!(Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&second, &third));
    assert_empty(&store.report(), "marshal,compress");
}

#[test]
fn bf16_halves_and_stays_within_its_bound() {
    let lossy = Store::builder().bf16_activations().build().expect("legal");
    let values: Vec<f32> = bytes_of(1, 40_000)
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_ne_bytes(*b))
        .collect();
    let record = Record::new(Arc::new(values.clone()), DType::F32, [10_000], "x");
    for (store, record) in [
        (&lossy, record.clone()),
        (&Store::memory(), record.clone().with_precision(Precision::Bf16)),
        (&Store::marshaling(), record.clone().with_precision(Precision::Bf16)),
    ] {
        let ticket = store.save(record).expect("saved");
        assert_eq!(ticket.kept_bytes(), 20_000);
        let back = edkm_store::downcast::<Vec<f32>>(ticket.load().expect("loaded")).expect("a Vec<f32>");
        for (&value, &back) in values.iter().zip(&*back) {
            // Finite normal numbers below the largest bf16, as the documentation says.
            if value.is_normal() && value.abs() < 3.38e38 {
                assert!(
                    (value - back).abs() <= value.abs() / 256.0,
                    "{value} came back as {back}"
                );
            } else if value.is_nan() {
                assert!(back.is_nan());
            }
        }
        assert_empty(&store.report(), "bf16");
    }
    // What asks for exactness gets it, and what is no f32 is not touched.
    let exact = record.with_precision(Precision::Exact);
    let ticket = lossy.save(exact.clone()).expect("saved");
    assert!(ticket.load().expect("loaded").as_bytes() == exact.bytes.as_bytes());
    let doubles = Record::new(Arc::new(vec![0.1f64; 10]), DType::F64, [10], "x");
    assert_eq!(lossy.save(doubles).expect("saved").kept_bytes(), 80);
}

#[test]
fn exact_and_rounded_copies_of_one_content_do_not_meet() {
    let store = Store::marshaling();
    let record = Record::new(Arc::new(vec![0.1f32; 10]), DType::F32, [10], "x");
    let exact = store.save(record.clone()).expect("saved");
    let rounded = store
        .save(record.clone().with_precision(Precision::Bf16))
        .expect("saved");
    assert_eq!(exact.load().expect("loaded").as_bytes(), record.bytes.as_bytes());
    assert_ne!(rounded.load().expect("loaded").as_bytes(), record.bytes.as_bytes());
}

#[test]
fn maps_of_the_same_weights_share_their_index() {
    let store = Store::builder().marshal().uniquify().build().expect("legal");
    let keys: Arc<dyn SharedBytes> = Arc::new((0..10_000u32).map(|i| (i * 7 % 100) as u16).collect::<Vec<u16>>());
    let map = |scale: f32| {
        let of_key = |key: u32| (0..8).map(move |k| (key * 8 + k) as f32 * scale);
        let rows: Vec<f32> = (0..10_000u32).flat_map(|i| of_key(i * 7 % 100)).collect();
        Record::new(Arc::new(rows), DType::F32, [10_000, 8], "attention").with_keys(keys.clone())
    };
    let first = store.save(map(1.0)).expect("saved");
    let second = store.save(map(2.0)).expect("saved");
    // 100 rows of 32 bytes, and 7 bits for each of 10,000 rows, once.
    assert_eq!((first.kept_bytes(), second.kept_bytes()), (3200 + 8750, 3200));
    drop(first);
    assert_eq!(second.load().expect("loaded").as_bytes(), map(2.0).bytes.as_bytes());
    assert_empty(&store.report(), "marshal,uniquify");
}
