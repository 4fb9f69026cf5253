//! Learners on all GPUs of this machine. With one GPU there is nothing to gather, and the tests say so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dfdx_edkm::device::{count_gpus, nccl_learners, NcclLearner};
use edkm_store::{Backend, DType, LearnerGroup, Placement, Record, Store, StoreError};

/// Tests take turns: collectives of two groups on the same GPUs may come in another order on each, and then wait for each other.
static GPUS: Mutex<()> = Mutex::new(());

/// Runs `program` on a learner for each GPU, each on its own thread, and returns what they return, by rank.
fn on_all_gpus<R: Send>(patience: Duration, program: impl Fn(NcclLearner) -> R + Sync) -> Option<Vec<R>> {
    let _turn = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
    let count = count_gpus().expect("a driver");
    if count < 2 {
        edkm_testkit::skipped(format_args!("{count} GPU on this machine, and learners need two"));
        return None;
    }
    let ordinals: Vec<_> = (0..count).collect();
    let learners = nccl_learners(&ordinals, patience).expect("learners");
    Some(std::thread::scope(|scope| {
        let threads: Vec<_> = learners
            .into_iter()
            .map(|learner| scope.spawn(|| program(learner)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    }))
}

#[test]
fn what_is_replicated_is_kept_in_parts_and_comes_back() {
    let kept = on_all_gpus(Duration::from_secs(60), |learner| {
        let store = Store::builder().shard(learner).build().expect("legal");
        let numbers: Vec<f32> = (0..10_007).map(|i| i as f32).collect();
        let record =
            Record::new(Arc::new(numbers.clone()), DType::F32, [10_007], "x").with_placement(Placement::Replicated);
        let tickets: Vec<_> = (0..3).map(|_| store.save(record.clone()).expect("saved")).collect();
        let kept = store.report().held_bytes;
        for ticket in tickets.into_iter().rev() {
            let bytes = ticket.load().expect("gathered");
            assert_eq!(bytes.as_bytes(), bytemuck::cast_slice::<f32, u8>(&numbers));
        }
        kept
    });
    for kept in kept.into_iter().flatten() {
        assert!(2 * kept <= 3 * 4 * 10_007 + 64, "{kept} bytes are no part");
    }
}

/// So large that the GPUs reach for each other's memory, not for buffers of NCCL's alone.
#[test]
fn parts_of_many_megabytes_are_gathered() {
    const PART: usize = 48 << 20;
    let part = |rank: usize| -> Vec<u8> { (0..PART).map(|i| (i * 31 + rank * 7 + i / 65_521) as u8).collect() };
    let gathered = on_all_gpus(Duration::from_secs(60), |learner| {
        let mine = Arc::new(part(learner.rank()));
        (0..3)
            .map(|turn| learner.all_gather(turn, mine.clone()).expect("gathered"))
            .next_back()
    });
    for all in gathered.into_iter().flatten().flatten() {
        for (rank, found) in all.iter().enumerate() {
            assert!(found.as_bytes() == part(rank), "the part of {rank}");
        }
    }
}

#[test]
fn a_learner_that_fails_or_does_not_come_is_named() {
    let failed = on_all_gpus(Duration::from_secs(60), |learner| {
        if learner.rank() == 1 {
            learner.abort("of itself");
            return None;
        }
        Some(learner.all_gather(0, Arc::new(vec![1u8])).map(drop))
    });
    for outcome in failed.into_iter().flatten().flatten() {
        let error = outcome.expect_err("one is missing");
        assert!(matches!(error, StoreError::Learner { rank: 1, .. }), "{error}");
        assert!(error.to_string().contains("of itself"), "{error}");
    }
    let late = on_all_gpus(Duration::from_secs(2), |learner| {
        if learner.rank() == 1 {
            std::thread::sleep(Duration::from_secs(8));
            return None;
        }
        Some(learner.all_gather(0, Arc::new(vec![1u8])).map(drop))
    });
    for outcome in late.into_iter().flatten().flatten() {
        assert!(outcome.is_err(), "one did not come");
    }
}
