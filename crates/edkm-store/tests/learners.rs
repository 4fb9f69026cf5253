//! Learners that are threads, each with a store of its own, share what is replicated and end each other's waiting.

mod common;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::{assert_empty, bytes_of};
use edkm_store::{
    in_process_learners, Backend, DType, InProcessLearner, Placement, Record, Store, StoreError, StoreSpec, Ticket,
    DEFAULT_PATIENCE,
};

fn replicated(seed: u64, len: usize) -> Record {
    let bytes = Arc::new(bytes_of(seed, len));
    Record::new(bytes, DType::F32, [len / 4], "replicated").with_placement(Placement::Replicated)
}

/// Runs `program` on every learner, each on its own thread, and returns what they return, by rank.
fn run<R: Send>(
    world: usize,
    patience: Duration,
    program: impl Fn(usize, InProcessLearner) -> R + Sync,
) -> Vec<thread::Result<R>> {
    let learners = in_process_learners(world, patience);
    thread::scope(|scope| {
        let start = |(rank, learner)| {
            let program = &program;
            scope.spawn(move || program(rank, learner))
        };
        let threads: Vec<_> = learners.into_iter().enumerate().map(start).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    })
}

#[track_caller]
fn assert_blames<T>(result: thread::Result<Result<T, StoreError>>, culprit: usize, words: &str) {
    match result.expect("no panic").map(drop).expect_err("it cannot succeed") {
        StoreError::Learner { rank, reason, .. } => {
            assert_eq!(rank, culprit, "{reason}");
            assert!(reason.contains(words), "{reason}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn each_keeps_its_part_and_gets_back_the_whole() {
    let spill = format!(
        "marshal,uniquify,shard,compress,spill={}:4KiB,overlap=64KiB",
        std::env::temp_dir().display()
    );
    for layers in [
        "shard",
        "marshal,shard",
        "marshal,uniquify,shard",
        "shard,overlap=64KiB",
        &spill,
    ] {
        for world in [2, 3, 8] {
            let spec: StoreSpec = layers.parse().expect("legal");
            let results = run(world, DEFAULT_PATIENCE, |rank, learner| {
                let store = spec.build_for(learner).expect("legal");
                for step in 0..3 {
                    let records: Vec<Record> = (0..12)
                        .map(|i| match i % 4 {
                            0 => replicated(7, 8000),
                            1 => replicated(step * 100 + i, 4 * (i as usize * 31 % 97)),
                            // What only this learner has.
                            2 => Record::new(Arc::new(bytes_of(rank as u64, 4000)), DType::F32, [1000], "local"),
                            _ => Record::new(Arc::new(vec![0f32; 1000]), DType::F32, [1000], "local"),
                        })
                        .collect();
                    let tickets: Vec<Ticket> = records.iter().map(|r| store.save(r.clone()).expect("saved")).collect();
                    for (ticket, record) in tickets.into_iter().zip(&records).rev() {
                        let loaded = ticket.load().expect("loaded");
                        assert!(
                            loaded.as_bytes() == record.bytes.as_bytes(),
                            "{layers}, learner {rank} of {world}"
                        );
                    }
                    assert_empty(&store.report(), layers);
                }
            });
            results
                .into_iter()
                .for_each(|result| result.expect("no learner panics"));
        }
    }
}

#[test]
fn a_part_is_one_in_world() {
    let results = run(8, DEFAULT_PATIENCE, |_, learner| {
        let store = Store::builder().shard(learner).build().expect("legal");
        let ticket = store.save(replicated(1, 80_000)).expect("saved");
        assert_eq!(ticket.kept_bytes(), 10_000);
        assert_eq!(store.report().held_bytes, 10_000);
        ticket.load().map(drop)
    });
    results
        .into_iter()
        .for_each(|result| result.expect("no panic").expect("loaded"));
}

#[test]
fn a_learner_that_drops_its_tape_ends_the_others() {
    let results = run(4, DEFAULT_PATIENCE, |rank, learner| {
        let store = Store::builder().marshal().shard(learner).build()?;
        let tickets: Vec<Ticket> = (0..5)
            .map(|i| store.save(replicated(i, 4000)))
            .collect::<Result<_, _>>()?;
        for (i, ticket) in tickets.into_iter().enumerate().rev() {
            if rank == 1 && i == 2 {
                break;
            }
            ticket.load()?;
        }
        Ok(())
    });
    for (rank, result) in results.into_iter().enumerate() {
        if rank == 1 {
            result.expect("no panic").expect("it did what it wanted");
        } else {
            assert_blames(result, 1, "left the group");
        }
    }
}

#[test]
fn a_learner_that_panics_ends_the_others() {
    let results = run(3, DEFAULT_PATIENCE, |rank, learner| {
        let store = Store::builder().shard(learner).overlap(1 << 20).build()?;
        let ticket = store.save(replicated(1, 4000))?;
        assert!(rank != 2, "as the test wants it");
        ticket.load().map(drop)
    });
    for (rank, result) in results.into_iter().enumerate().take(2) {
        assert_ne!(rank, 2);
        assert_blames(result, 2, "panicked");
    }
}

#[test]
fn a_learner_whose_store_fails_ends_the_others_with_its_reason() {
    let results = run(3, DEFAULT_PATIENCE, |rank, learner| {
        let store = Store::builder().shard(learner).build()?;
        let ticket = store.save(replicated(1, 4000))?;
        if rank == 0 {
            // A record that contradicts itself; the store stays alive, so that only the failure can be what is reported.
            let wrong = Record::new(Arc::new(vec![0u8; 3]), DType::F32, [1], "wrong");
            let error = store.save(wrong).expect_err("refused");
            thread::sleep(Duration::from_millis(200));
            return Err(error);
        }
        ticket.load().map(drop)
    });
    for (rank, result) in results.into_iter().enumerate().skip(1) {
        assert!(rank > 0);
        assert_blames(result, 0, "cannot save `wrong`");
    }
}

#[test]
fn a_record_that_is_not_replicated_is_found_out() {
    let results = run(3, DEFAULT_PATIENCE, |rank, learner| {
        let store = Store::builder().shard(learner).build()?;
        let seed = if rank == 1 { 2 } else { 1 };
        store.save(replicated(seed, 4000))?.load().map(drop)
    });
    for result in results {
        assert_blames(result, 1, "what it saved as replicated is not");
    }
}

#[test]
fn equal_local_contents_do_not_bring_learners_apart() {
    let results = run(2, DEFAULT_PATIENCE, |rank, learner| {
        let store = Store::builder().marshal().shard(learner).build().expect("legal");
        // Learner 0 has saved the same bytes before, for itself alone.
        let earlier = replicated(rank as u64, 4000).with_placement(Placement::Local);
        let local = store.save(earlier).expect("saved");
        let shared = store.save(replicated(0, 4000)).expect("saved");
        assert_eq!(shared.load().expect("loaded").as_bytes(), bytes_of(0, 4000));
        drop(local);
    });
    results
        .into_iter()
        .for_each(|result| result.expect("no learner panics"));
}
