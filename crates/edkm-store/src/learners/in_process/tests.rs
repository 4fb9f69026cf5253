use std::thread;

use super::*;

const SHORT: Duration = Duration::from_millis(200);

fn bytes(of: usize) -> Arc<dyn SharedBytes> {
    Arc::new(vec![of as u8; of + 1])
}

/// Runs `program` on every learner, each on its own thread, and returns what they return, by rank.
fn run<R: Send>(
    world: usize,
    patience: Duration,
    program: impl Fn(InProcessLearner) -> R + Sync,
) -> Vec<thread::Result<R>> {
    let learners = in_process_learners(world, patience);
    thread::scope(|scope| {
        let threads: Vec<_> = learners
            .into_iter()
            .map(|learner| scope.spawn(|| program(learner)))
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    })
}

#[track_caller]
fn assert_blames<T>(result: Result<T, StoreError>, culprit: usize, words: &str) {
    match result.map(drop).expect_err("the gather cannot succeed") {
        StoreError::Learner { rank, reason, .. } => {
            assert_eq!(rank, culprit, "{reason}");
            assert!(reason.contains(words), "{reason}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn everybody_gets_everything_by_rank_round_after_round() {
    for world in [1, 2, 3, 8] {
        let results = run(world, DEFAULT_PATIENCE, |learner| {
            for round in 0..50 {
                let parts = learner.all_gather(round, bytes(learner.rank())).expect("all are there");
                for (rank, part) in parts.iter().enumerate() {
                    assert_eq!(part.as_bytes(), bytes(rank).as_bytes());
                }
            }
        });
        results
            .into_iter()
            .for_each(|result| result.expect("no learner panics"));
    }
}

#[test]
fn a_learner_that_leaves_is_named() {
    let results = run(4, DEFAULT_PATIENCE, |learner| {
        let rounds = if learner.rank() == 2 { 3 } else { 4 };
        (0..rounds).try_for_each(|round| learner.all_gather(round, bytes(0)).map(drop))
    });
    for (rank, result) in results.into_iter().enumerate() {
        let result = result.expect("no learner panics");
        if rank == 2 {
            result.expect("it took part in everything that it knew of");
        } else {
            // Those that fail after it may go before the last one looks; the first to go is named.
            assert_blames(result, 2, "left the group");
        }
    }
}

#[test]
fn a_learner_that_panics_is_named() {
    let results = run(3, DEFAULT_PATIENCE, |learner| {
        assert!(learner.rank() != 1, "as the test wants it");
        learner.all_gather(0, bytes(0)).map(drop)
    });
    assert!(results[1].is_err());
    for rank in [0, 2] {
        assert_blames(results[rank].as_ref().expect("no panic").clone(), 1, "panicked");
    }
}

#[test]
fn a_learner_that_fails_is_named_with_its_reason() {
    let results = run(3, DEFAULT_PATIENCE, |learner| {
        if learner.rank() == 0 {
            learner.abort("the disk is full");
            // It is still there, and busy with something else.
            thread::sleep(SHORT);
            return Ok(());
        }
        learner.all_gather(0, bytes(0)).map(drop)
    });
    for rank in [1, 2] {
        assert_blames(results[rank].as_ref().expect("no panic").clone(), 0, "the disk is full");
    }
}

#[test]
fn a_learner_that_does_not_come_is_given_up() {
    let results = run(3, SHORT, |learner| {
        if learner.rank() == 1 {
            thread::sleep(SHORT * 5);
            return Ok(());
        }
        learner.all_gather(0, bytes(0)).map(drop)
    });
    let blamed = [0, 2].map(|rank| results[rank].as_ref().expect("no panic").clone());
    // The one that gives up first leaves, which is what the other may see.
    assert!(blamed
        .iter()
        .any(|result| matches!(result, Err(StoreError::Learner { rank: 1, .. }))));
    assert!(blamed.iter().all(Result::is_err));
}

#[test]
fn learners_that_come_apart_are_told() {
    let results = run(4, DEFAULT_PATIENCE, |learner| {
        let tag = if learner.rank() == 3 { 8 } else { 7 };
        learner.all_gather(tag, bytes(0)).map(drop)
    });
    for result in results {
        assert_blames(result.expect("no panic"), 3, "another record");
    }
}
