//! Launches that wait for each other on their GPUs, made at one time.
//!
//! A collective that one GPU of a process has begun waits there for those of the others. A call of the driver that locks or frees pages of the host may wait
//! for what all GPUs do, and keep the others' launches waiting meanwhile: if it comes between two launches of one collective, neither goes on (NVIDIA/nccl,
//! issues 48 and 70). So the learners of a group meet on the host before any of them launches, and no pages are locked or freed until all have.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Keeps the locking of pages and launches of collectives apart, in all of the process.
pub(super) static GATE: Gate = Gate::new();

/// See the [module](self).
pub(super) struct Gate {
    counts: Mutex<Counts>,
    changed: Condvar,
}

struct Counts {
    /// Threads that lock or free pages.
    locking: usize,
    /// Groups that are launching, or are about to.
    launching: usize,
}

impl Gate {
    const fn new() -> Self {
        Self {
            counts: Mutex::new(Counts {
                locking: 0,
                launching: 0,
            }),
            changed: Condvar::new(),
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while it holds.
    fn wait_while(&self, mut condition: impl FnMut(&Counts) -> bool) -> MutexGuard<'_, Counts> {
        let waited = self.changed.wait_while(self.counts(), |counts| condition(counts));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what locks or frees pages, while nobody launches.
    pub(super) fn lock_pages<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Done<'a>(&'a Gate);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.counts().locking -= 1;
                self.0.changed.notify_all();
            }
        }
        self.wait_while(|counts| counts.launching > 0).locking += 1;
        let _done = Done(self);
        work()
    }
}

#[cfg(any(feature = "nccl", test))]
pub(super) use of_groups::Meeting;

#[cfg(any(feature = "nccl", test))]
mod of_groups {
    use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
    use std::time::Duration;

    use super::Gate;

    /// Between two looks whether to go on waiting.
    const PAUSE: Duration = Duration::from_millis(1);

    impl Gate {
        fn begin_launches(&self) {
            self.counts().launching += 1;
            drop(self.wait_while(|counts| counts.locking > 0));
        }

        fn end_launches(&self) {
            self.counts().launching -= 1;
            self.changed.notify_all();
        }

        /// Does what launches for all GPUs at once, while nobody locks pages.
        #[cfg(feature = "nccl")]
        pub(in super::super) fn launch<T>(&self, work: impl FnOnce() -> T) -> T {
            struct Done<'a>(&'a Gate);
            impl Drop for Done<'_> {
                fn drop(&mut self) {
                    self.0.end_launches();
                }
            }
            self.begin_launches();
            let _done = Done(self);
            work()
        }
    }

    /// Where the learners of a group meet.
    pub(in super::super) struct Meeting {
        world: usize,
        gate: &'static Gate,
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Default)]
    struct State {
        /// Who has come.
        arrived: usize,
        /// Whether all have come, and launch.
        open: bool,
        /// Who has launched.
        launched: usize,
    }

    impl Meeting {
        /// Of so many learners.
        pub(in super::super) fn new(world: usize, gate: &'static Gate) -> Self {
            Self {
                world,
                gate,
                state: Mutex::default(),
                changed: Condvar::new(),
            }
        }

        fn state(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Calls `launch` once all have come here. Meanwhile `give_up` is asked now and then whether to go on, and if not, why.
        ///
        /// # Errors
        /// What `give_up` says.
        pub(in super::super) fn launch<T, E>(
            &self,
            mut give_up: impl FnMut() -> Option<E>,
            launch: impl FnOnce() -> T,
        ) -> Result<T, E> {
            // what was launched may be over before all of it is counted
            let mut state = self
                .wait_while(self.state(), &mut give_up, |state| state.open)
                .map_err(|(why, _)| why)?;
            state.arrived += 1;
            if state.arrived == self.world {
                self.gate.begin_launches();
                state.open = true;
                self.changed.notify_all();
            } else {
                state = match self.wait_while(state, &mut give_up, |state| !state.open) {
                    Ok(state) => state,
                    Err((why, mut state)) => {
                        state.arrived -= 1;
                        return Err(why);
                    }
                };
            }
            drop(state);
            let _launched = Launched(self);
            Ok(launch())
        }

        fn wait_while<'a, E>(
            &'a self,
            mut state: MutexGuard<'a, State>,
            give_up: &mut impl FnMut() -> Option<E>,
            condition: impl Fn(&State) -> bool,
        ) -> Result<MutexGuard<'a, State>, (E, MutexGuard<'a, State>)> {
            while condition(&state) {
                let waited = self.changed.wait_timeout(state, PAUSE);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                if !condition(&state) {
                    break;
                }
                if let Some(why) = give_up() {
                    return Err((why, state));
                }
            }
            Ok(state)
        }
    }

    /// One who has launched, however that ended.
    struct Launched<'a>(&'a Meeting);

    impl Drop for Launched<'_> {
        fn drop(&mut self) {
            let mut state = self.0.state();
            state.launched += 1;
            if state.launched == self.0.world {
                *state = State::default();
                self.0.gate.end_launches();
                self.0.changed.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn never() -> Option<&'static str> {
        None
    }

    #[test]
    fn nobody_launches_before_all_have_come_and_no_pages_are_locked_meanwhile() {
        static OWN: Gate = Gate::new();
        const WORLD: usize = 3;
        let meeting = Meeting::new(WORLD, &OWN);
        let (come, launching, locking) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for rank in 0..WORLD {
                let (meeting, come, launching, locking) = (&meeting, &come, &launching, &locking);
                scope.spawn(move || {
                    for round in 1..=50 {
                        if (round + rank) % 7 == 0 {
                            thread::sleep(Duration::from_millis(1));
                        }
                        come.fetch_add(1, SeqCst);
                        let launched = meeting.launch(never, || {
                            assert!(come.load(SeqCst) >= WORLD * round, "all have come");
                            launching.fetch_add(1, SeqCst);
                            thread::yield_now();
                            assert_eq!(locking.load(SeqCst), 0);
                            launching.fetch_sub(1, SeqCst);
                        });
                        assert_eq!(launched, Ok(()));
                        // as a pool that grows
                        OWN.lock_pages(|| {
                            locking.fetch_add(1, SeqCst);
                            thread::yield_now();
                            assert_eq!(launching.load(SeqCst), 0);
                            locking.fetch_sub(1, SeqCst);
                        });
                    }
                });
            }
        });
        assert_eq!(come.load(SeqCst), 50 * WORLD);
    }

    #[test]
    fn one_who_gives_up_was_not_there() {
        static OWN: Gate = Gate::new();
        let meeting = Arc::new(Meeting::new(2, &OWN));
        let mut asked = 0;
        let gave_up = meeting.launch(
            || {
                asked += 1;
                (asked > 2).then_some("alone")
            },
            || panic!("nobody else has come"),
        );
        assert_eq!(gave_up, Err::<(), _>("alone"));
        // a launch that fails is over for the others too
        let other = meeting.clone();
        let second = thread::spawn(move || other.launch(never, || Err::<(), _>("no memory")));
        assert_eq!(meeting.launch(never, || Ok::<_, &str>(())), Ok(Ok(())));
        assert_eq!(second.join().unwrap(), Ok(Err("no memory")));
        OWN.lock_pages(|| ());
    }
}
