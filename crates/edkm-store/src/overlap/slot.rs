//! One record on its way into the store and out of it.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex};

use super::Flight;
use crate::layers::{Layer, Piece};
use crate::lock::{lock, wait};
use crate::panics;
use crate::{Held, SharedBytes, StoreError, Uptake};

/// One record, from its save until its ticket is gone and the packing thread has let go of it.
pub(super) struct Slot {
    pub(super) sequence: u64,
    uptake: Option<Arc<dyn Uptake>>,
    phase: Mutex<Phase>,
    changed: Condvar,
}

enum Phase {
    /// Waits to be packed.
    Waiting(Piece),
    /// The thread is packing it, or fetching it.
    Working,
    /// Stored; what had to be read for it may have been read ahead.
    Stored {
        held: Arc<dyn Held>,
        ahead: Option<Flight>,
        is_loaded: bool,
    },
    /// Fetched ahead; what was stored is freed. It stays for who asks again: a layer around this store that has one content for several records.
    Fetched {
        result: Result<Arc<dyn SharedBytes>, StoreError>,
        kept_bytes: usize,
        /// Until it is asked for.
        ahead: Option<Flight>,
    },
    Failed(StoreError),
}

impl Slot {
    pub(super) fn new(sequence: u64, piece: Piece) -> Self {
        Self {
            sequence,
            uptake: piece.record.uptake.clone(),
            phase: Mutex::new(Phase::Waiting(piece)),
            changed: Condvar::new(),
        }
    }

    fn set(&self, phase: Phase) {
        let before = std::mem::replace(&mut *lock(&self.phase), phase);
        self.changed.notify_all();
        // Not under the lock: what it held may have much to free.
        drop(before);
    }

    /// Packs the record, on the packing thread. After an error or a panic comes [`Slot::fail`].
    pub(super) fn pack(&self, top: &dyn Layer) -> Result<(), StoreError> {
        let piece = {
            let mut phase = lock(&self.phase);
            match std::mem::replace(&mut *phase, Phase::Working) {
                Phase::Waiting(piece) => piece,
                other => {
                    *phase = other;
                    return Ok(());
                }
            }
        };
        let held = piece.record.arrive().and_then(|()| top.save(piece))?;
        self.set(Phase::Stored {
            held: Arc::from(held),
            ahead: None,
            is_loaded: false,
        });
        Ok(())
    }

    /// Lets the record's ticket know that it cannot be had.
    pub(super) fn fail(&self, error: StoreError) {
        self.set(Phase::Failed(error));
    }

    /// Fetches the record before it is asked for, on the packing thread.
    pub(super) fn fetch_ahead(&self, flight: Flight) {
        let held = {
            let mut phase = lock(&self.phase);
            match std::mem::replace(&mut *phase, Phase::Working) {
                Phase::Stored {
                    held, is_loaded: false, ..
                } => held,
                other => {
                    *phase = other;
                    // The flight is dropped after the lock, with the parameters.
                    return;
                }
            }
        };
        // What takes all learners at once runs in the order of the program, so its owner does it.
        if held.gathers() {
            let warmed = guarded(|| {
                held.warm();
                Ok(())
            });
            self.set(match warmed {
                Ok(()) => Phase::Stored {
                    held,
                    ahead: Some(flight),
                    is_loaded: false,
                },
                Err(error) => Phase::Failed(error),
            });
        } else {
            let (result, kept_bytes) = (
                guarded(|| held.fetch().map(|bytes| self.taken_up(bytes))),
                held.kept_bytes(),
            );
            drop(held);
            self.set(Phase::Fetched {
                result,
                kept_bytes,
                ahead: Some(flight),
            });
        }
    }

    fn taken_up(&self, bytes: Arc<dyn SharedBytes>) -> Arc<dyn SharedBytes> {
        match &self.uptake {
            Some(uptake) => uptake.take_up(bytes),
            None => bytes,
        }
    }

    /// Waits for the packing thread to be done with the record and hands what there is to `use_it`, which leaves something.
    fn settled<R>(&self, use_it: impl FnOnce(&mut Phase) -> R) -> R {
        let mut phase = lock(&self.phase);
        while matches!(*phase, Phase::Waiting(_) | Phase::Working) {
            phase = wait(&self.changed, phase);
        }
        use_it(&mut phase)
    }

    /// The record.
    pub(super) fn take(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        enum Found {
            Stored(Arc<dyn Held>, Option<Flight>),
            Given(Result<Arc<dyn SharedBytes>, StoreError>, Option<Flight>),
        }
        let found = self.settled(|phase| match phase {
            Phase::Stored { held, ahead, is_loaded } => {
                *is_loaded = true;
                Found::Stored(held.clone(), ahead.take())
            }
            Phase::Fetched { result, ahead, .. } => Found::Given(result.clone(), ahead.take()),
            Phase::Failed(error) => Found::Given(Err(error.clone()), None),
            // it has been waited for
            Phase::Waiting(_) | Phase::Working => Found::Given(
                Err(StoreError::Worker {
                    reason: "the record is neither stored nor lost".to_owned(),
                }),
                None,
            ),
        });
        // not under the lock; what was in flight has arrived
        match found {
            Found::Stored(held, _ahead) => held.fetch(),
            Found::Given(result, _ahead) => result,
        }
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.settled(|phase| match phase {
            Phase::Stored { held, .. } => held.kept_bytes(),
            Phase::Fetched { kept_bytes, .. } => *kept_bytes,
            Phase::Waiting(_) | Phase::Working | Phase::Failed(_) => 0,
        })
    }
}

/// Runs what may call a user's backend, codec or learner group; a panic must not end the thread on which others wait.
pub(super) fn guarded<R>(work: impl FnOnce() -> Result<R, StoreError>) -> Result<R, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(StoreError::Worker {
            reason: panics::message(&*panic),
        })
    })
}
