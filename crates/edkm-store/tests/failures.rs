//! Every way in which a store fails, and that a failure is an error of the record at fault and of no other.

mod common;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;

use common::{assert_empty, bytes_of};
use edkm_store::{
    Backend, Codec, CodecError, DType, LearnerGroup, Placement, Record, SharedBytes, Store, StoreBuilder, StoreError,
    StoreSpec,
};

fn record(seed: u64, label: &'static str) -> Record {
    Record::new(Arc::new(bytes_of(seed, 4000)), DType::F32, [1000], label)
}

/// Bytes that change while the store holds them, which they promised not to do: what failing memory looks like.
struct Failing {
    failed: AtomicBool,
    bytes: [Vec<u8>; 2],
}

impl SharedBytes for Failing {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.failed.load(Relaxed))]
    }
}

#[test]
fn a_flipped_bit_is_an_error_that_names_the_record() {
    for builder in [
        Store::builder,
        || Store::builder().marshal(),
        || Store::builder().marshal().overlap(1 << 20),
    ] {
        let builder: fn() -> StoreBuilder = builder;
        let store = builder().build().expect("legal");
        for place in [0, 1999, 3999] {
            for bit in [0, 7] {
                let bytes = bytes_of(3, 4000);
                let mut flipped = bytes.clone();
                flipped[place] ^= 1 << bit;
                let failing = Arc::new(Failing {
                    failed: AtomicBool::new(false),
                    bytes: [bytes, flipped],
                });
                let ticket = store
                    .save(Record::new(failing.clone(), DType::F32, [1000], "weights"))
                    .expect("saved");
                let healthy = store.save(record(1, "other")).expect("saved");
                assert_eq!(ticket.kept_bytes(), 4000, "and it is packed");
                failing.failed.store(true, Relaxed);
                let error = ticket.load().expect_err("the bytes have changed");
                assert!(matches!(error, StoreError::Corrupt { label: "weights", .. }), "{error}");
                assert!(error.to_string().contains("`weights`"));
                assert_eq!(healthy.load().expect("loaded").as_bytes(), bytes_of(1, 4000));
                assert_empty(&store.report(), "after corruption");
            }
        }
    }
}

#[test]
fn records_that_contradict_themselves_are_refused() {
    let bytes = || Arc::new(vec![0u8; 8]);
    for store in [Store::memory(), Store::builder().overlap(100).build().expect("legal")] {
        for shape in [
            vec![3],
            vec![2, 2],
            vec![0],
            vec![usize::MAX, usize::MAX],
            vec![2, usize::MAX],
        ] {
            let error = store
                .save(Record::new(bytes(), DType::F32, shape.clone(), "x"))
                .expect_err("refused");
            assert!(
                matches!(&error, StoreError::Length { got: 8, shape: s, .. } if *s == shape),
                "{error}"
            );
        }
        let keyed = Record::new(bytes(), DType::F32, [2], "x").with_keys(Arc::new(vec![1u16]));
        let error = store.save(keyed).expect_err("refused");
        assert!(matches!(error, StoreError::Keys { rows: 2, got: 2, .. }), "{error}");
        assert_empty(&store.report(), "after refusals");
    }
}

#[test]
fn orders_that_make_no_sense_are_refused() {
    let error = Store::builder()
        .compress(Broken::Never)
        .uniquify()
        .build()
        .expect_err("refused");
    assert!(
        matches!(
            error,
            StoreError::Order {
                layer: "uniquify",
                after: "compress",
                ..
            }
        ),
        "{error}"
    );
    assert!(matches!("zip".parse::<StoreSpec>(), Err(StoreError::Spec { .. })));
}

#[test]
fn a_spill_directory_that_is_not_there_is_named() {
    let error = Store::builder()
        .spill("/no/such/place", 0)
        .build()
        .expect_err("refused");
    assert!(matches!(&error, StoreError::SpillDir { source, .. } if source.kind() == io::ErrorKind::NotFound));
    assert!(error.to_string().contains("/no/such/place"), "{error}");
}

/// A codec of a user's that fails in one way.
#[derive(Clone, Copy, Debug)]
enum Broken {
    Never,
    Alters,
    RefusesToDecode,
    PanicsEncoding,
    PanicsDecoding,
}

impl Codec for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn encode(&self, bytes: &[u8], _: usize) -> Option<Vec<u8>> {
        assert!(!matches!(self, Self::PanicsEncoding), "encoding is not its thing");
        // It only knows runs.
        bytes.iter().all(|byte| *byte == bytes[0]).then(|| vec![bytes[0]])
    }

    fn decode(&self, encoded: &[u8], _: usize, out: &mut [u8]) -> Result<(), CodecError> {
        match self {
            Self::PanicsDecoding => panic!("decoding is not its thing"),
            Self::RefusesToDecode => return Err(CodecError("would rather not".to_owned())),
            _ => out.fill(encoded[0]),
        }
        if matches!(self, Self::Alters) {
            out[7] ^= 1;
        }
        Ok(())
    }
}

#[test]
fn codecs_that_fail_are_errors_and_never_other_bytes() {
    let zeros = || Record::new(Arc::new(vec![0f32; 1000]), DType::F32, [1000], "zeros");
    for beside in [false, true] {
        let store = |codec| {
            let builder = Store::builder().compress(codec);
            let builder = if beside { builder.overlap(1 << 20) } else { builder };
            builder.build().expect("legal")
        };
        let failure = |codec| {
            let store = store(codec);
            // With a thread of its own the store learns of a failure to encode when the record is packed.
            let error = store
                .save(zeros())
                .and_then(|ticket| ticket.load().map(drop))
                .expect_err("it fails");
            assert_empty(&store.report(), "after a codec's failure");
            error
        };
        assert_eq!(store(Broken::Never).save(zeros()).expect("saved").kept_bytes(), 1);
        assert!(matches!(
            failure(Broken::Alters),
            StoreError::Corrupt { label: "zeros", .. }
        ));
        for (codec, what, words) in [
            (Broken::RefusesToDecode, "decode", "would rather not"),
            (Broken::PanicsEncoding, "encode", "encoding is not its thing"),
            (Broken::PanicsDecoding, "decode", "decoding is not its thing"),
        ] {
            match failure(codec) {
                StoreError::Codec {
                    label: "zeros",
                    codec: "broken",
                    doing,
                    reason,
                } => {
                    assert_eq!(doing, what);
                    assert!(reason.contains(words), "{reason}");
                }
                other => panic!("{codec:?}: {other}"),
            }
        }
    }
}

#[test]
fn a_failure_beside_the_forward_pass_is_told_at_the_next_save_and_not_to_the_next_tape() {
    let store = Store::builder()
        .compress(Broken::PanicsEncoding)
        .overlap(1 << 20)
        .build()
        .expect("legal");
    let failed = store.save(record(1, "x")).expect("queued");
    assert_eq!(failed.kept_bytes(), 0, "and it is packed");
    assert!(matches!(
        store.save(record(2, "y")),
        Err(StoreError::Codec { label: "x", .. })
    ));
    assert!(matches!(failed.load(), Err(StoreError::Codec { label: "x", .. })));
    // A tape that was given up.
    drop(store.save(record(3, "z")).expect("queued"));
    store.report();
    drop(store.save(record(4, "tiny")).expect("queued"));
}

/// A learner group of a user's that loses the other learner's parts.
struct Losing;

impl LearnerGroup for Losing {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        2
    }

    fn all_gather(&self, _: u64, part: Arc<dyn SharedBytes>) -> Result<Vec<Arc<dyn SharedBytes>>, StoreError> {
        // The other learner's part is missing.
        Ok(vec![part])
    }

    fn abort(&self, _: &str) {}
}

#[test]
fn a_group_that_loses_parts_is_an_error() {
    let store = Store::builder().shard(Losing).build().expect("legal");
    let ticket = store
        .save(record(1, "x").with_placement(Placement::Replicated))
        .expect("saved");
    assert!(matches!(
        ticket.load(),
        Err(StoreError::Learner { rank: 1, world: 2, .. })
    ));
    assert_empty(&store.report(), "after a gather");
}

/// Bytes whose owner panics when they are read on another thread.
struct Moody(std::thread::ThreadId);

impl SharedBytes for Moody {
    fn as_bytes(&self) -> &[u8] {
        assert!(std::thread::current().id() == self.0, "only at home");
        &[1, 2, 3, 4]
    }
}

#[test]
fn a_panic_on_the_packing_thread_is_an_error_and_the_thread_goes_on() {
    let store = Store::builder().overlap(1 << 20).build().expect("legal");
    let moody = Arc::new(Moody(std::thread::current().id()));
    let ticket = store.save(Record::new(moody, DType::U8, [4], "moody")).expect("queued");
    assert!(matches!(ticket.load(), Err(StoreError::Worker { reason }) if reason.contains("only at home")));
    // It is told once more, to whoever saves next, unless its ticket is gone; and then the thread works as before.
    assert_eq!(
        store
            .save(record(1, "x"))
            .expect("queued")
            .load()
            .expect("loaded")
            .as_bytes(),
        bytes_of(1, 4000)
    );
}
