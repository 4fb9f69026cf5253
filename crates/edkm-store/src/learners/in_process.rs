//! Learners that are threads of one process.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{odd_one_out, LearnerGroup};
use crate::lock::lock;
use crate::{SharedBytes, StoreError};

/// How long a learner waits for the others before it names those that have not come.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(600);

/// Makes `world` learners (at least one) that know each other, for one thread each.
///
/// A learner leaves the group when it is dropped, which ends the others' waiting with an error. So it belongs to its
/// thread alone: give it to the thread's store and keep no clone of that store elsewhere. A learner that neither fails nor
/// leaves nor comes is given up after `patience`.
pub fn in_process_learners(world: usize, patience: Duration) -> Vec<InProcessLearner> {
    let world = world.max(1);
    let state = State {
        parts: vec![None; world],
        gone: vec![None; world],
        first_gone: None,
        round: 0,
        done: None,
    };
    let group = Arc::new(Group {
        state: Mutex::new(state),
        changed: Condvar::new(),
    });
    (0..world)
        .map(|rank| InProcessLearner {
            rank,
            world,
            patience,
            group: group.clone(),
        })
        .collect()
}

/// A learner that is a thread of this process. See [`in_process_learners`].
pub struct InProcessLearner {
    rank: usize,
    world: usize,
    patience: Duration,
    group: Arc<Group>,
}

struct Group {
    state: Mutex<State>,
    changed: Condvar,
}

type Parts = Arc<[Arc<dyn SharedBytes>]>;

struct State {
    /// What has been given to the round that is under way.
    parts: Vec<Option<(u64, Arc<dyn SharedBytes>)>>,
    /// Why a learner will not come any more.
    gone: Vec<Option<String>>,
    /// The learner that went first; the others' going is often its consequence.
    first_gone: Option<usize>,
    /// Rounds that are complete.
    round: u64,
    /// The result of the last round, with the number of learners that have yet to take it. There is only one: nobody
    /// enters a round before having taken the result of the one before.
    done: Option<(Result<Parts, StoreError>, usize)>,
}

impl State {
    fn go(&mut self, rank: usize, reason: String) {
        if self.gone[rank].is_none() {
            self.gone[rank] = Some(reason);
            self.first_gone.get_or_insert(rank);
        }
    }

    /// The error of a round that can never be complete, because somebody is gone who has given nothing to it.
    fn broken(&self) -> Option<StoreError> {
        let missing = |rank: &usize| self.gone[*rank].is_some() && self.parts[*rank].is_none();
        (0..self.gone.len()).find(missing)?;
        let rank = self.first_gone?;
        let reason = self.gone[rank].clone().unwrap_or_default();
        Some(StoreError::Learner {
            rank,
            world: self.gone.len(),
            reason,
        })
    }

    /// Ends the round when all parts are there.
    fn complete(&mut self) {
        if self.parts.iter().any(Option::is_none) {
            return;
        }
        let world = self.parts.len();
        let (tags, parts): (Vec<_>, Vec<_>) = self.parts.iter_mut().filter_map(Option::take).unzip();
        let result = match odd_one_out(&tags) {
            None => Ok(parts.into()),
            Some(rank) => Err(StoreError::came_apart(rank, world)),
        };
        self.round += 1;
        self.done = Some((result, world));
    }

    fn take_result(&mut self) -> Option<Result<Parts, StoreError>> {
        let (result, takers) = self.done.as_mut()?;
        *takers -= 1;
        if *takers == 0 {
            self.done.take().map(|(result, _)| result)
        } else {
            Some(result.clone())
        }
    }
}

impl LearnerGroup for InProcessLearner {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_gather(&self, tag: u64, part: Arc<dyn SharedBytes>) -> Result<Vec<Arc<dyn SharedBytes>>, StoreError> {
        let begun = Instant::now();
        let mut state = lock(&self.group.state);
        let round = state.round;
        state.parts[self.rank] = Some((tag, part));
        state.complete();
        if state.round > round {
            self.group.changed.notify_all();
        }
        loop {
            if state.round > round {
                let result = state.take_result();
                drop(state);
                let missing = StoreError::Learner {
                    rank: self.rank,
                    world: self.world,
                    reason: "gathers from two threads at once".to_owned(),
                };
                return result.unwrap_or(Err(missing)).map(|parts| parts.to_vec());
            }
            let error = state.broken().or_else(|| self.late(&state, begun));
            if let Some(error) = error {
                state.parts[self.rank] = None;
                return Err(error);
            }
            state = self.wait(state, begun);
        }
    }

    fn abort(&self, reason: &str) {
        lock(&self.group.state).go(self.rank, format!("failed: {reason}"));
        self.group.changed.notify_all();
    }
}

impl InProcessLearner {
    fn wait<'a>(&self, state: MutexGuard<'a, State>, begun: Instant) -> MutexGuard<'a, State> {
        let left = self.patience.saturating_sub(begun.elapsed());
        self.group
            .changed
            .wait_timeout(state, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// The error that names a learner for whom this one has waited long enough.
    fn late(&self, state: &State, begun: Instant) -> Option<StoreError> {
        if begun.elapsed() < self.patience {
            return None;
        }
        let rank = state.parts.iter().position(Option::is_none)?;
        let reason = format!("did not come to a gather within {:?}", self.patience);
        Some(StoreError::Learner {
            rank,
            world: self.world,
            reason,
        })
    }
}

impl Drop for InProcessLearner {
    fn drop(&mut self) {
        let how = if std::thread::panicking() {
            "panicked"
        } else {
            "left the group"
        };
        lock(&self.group.state).go(self.rank, how.to_owned());
        self.group.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
