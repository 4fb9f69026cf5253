//! Packing beside the forward pass, and fetching ahead of the backward pass.
//!
//! One thread for each store takes saves in their order and, when there are none, fetches what the backward pass will ask
//! for next: the record saved before the one that was loaded last. Both are bounded by one number of bytes each.

mod slot;
mod worker;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, Weak};

use crate::layers::{Layer, Piece};
use crate::lock::{lock, wait};
use crate::meter::Gauge;
use crate::{Bytes, Held, SharedBytes, StoreError};
use slot::Slot;

/// A store's packing thread. It ends when this is dropped, which the tickets prevent while they need it.
pub(crate) struct Overlap {
    shared: Arc<Shared>,
}

/// What the thread and its users share.
struct Shared {
    top: Box<dyn Layer>,
    bound: u64,
    queues: Mutex<Queues>,
    /// Something changed in the queues: a job, the end of one, or room in the bound.
    changed: Condvar,
    in_flight: Gauge,
}

/// Holds slots weakly throughout: what they hold must not be dropped under the lock, which some of it takes.
struct Queues {
    to_pack: VecDeque<Job>,
    to_fetch: VecDeque<Job>,
    /// Records whose tickets are open, with their lengths, by the order in which they were saved.
    open: BTreeMap<u64, (Weak<Slot>, u64)>,
    next: u64,
    /// Everything open from here on was loaded or asked for ahead, since the last save.
    asked_from: u64,
    /// Bytes that wait to be packed.
    packing: u64,
    /// Bytes that were fetched ahead or are to be.
    ahead: u64,
    working: Working,
    /// The first failure to pack that nobody has been told, with its record.
    failed: Option<(u64, StoreError)>,
    ending: bool,
}

/// What the thread is to do for a slot that is still open when its turn comes.
struct Job {
    slot: Weak<Slot>,
    flight: Flight,
}

/// Bytes counted against a bound until this is dropped, which must not be under the lock of the queues.
struct Flight {
    shared: Arc<Shared>,
    way: Way,
    len: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Queues {
    /// Keeps a failure for the next save, unless one is kept already whose ticket is still open.
    fn note_failure(&mut self, sequence: u64, error: &StoreError) {
        if !self
            .failed
            .as_ref()
            .is_some_and(|(earlier, _)| self.open.contains_key(earlier))
        {
            self.failed = Some((sequence, error.clone()));
        }
    }

    fn bytes(&mut self, way: Way) -> &mut u64 {
        match way {
            Way::In => &mut self.packing,
            Way::Out => &mut self.ahead,
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        *lock(&self.shared.queues).bytes(self.way) -= self.len;
        self.shared.in_flight.sub(self.len);
        self.shared.changed.notify_all();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Working {
    Idle,
    Busy,
}

impl Overlap {
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn start(top: Box<dyn Layer>, bound: Bytes) -> Result<Arc<Self>, StoreError> {
        let queues = Queues {
            to_pack: VecDeque::new(),
            to_fetch: VecDeque::new(),
            open: BTreeMap::new(),
            next: 0,
            asked_from: u64::MAX,
            packing: 0,
            ahead: 0,
            working: Working::Idle,
            failed: None,
            ending: false,
        };
        let shared = Arc::new(Shared {
            top,
            bound: bound.0,
            queues: Mutex::new(queues),
            changed: Condvar::new(),
            in_flight: Gauge::default(),
        });
        let thread = std::thread::Builder::new().name("edkm-store".to_owned());
        let worker = shared.clone();
        thread.spawn(move || worker.run()).map_err(|error| StoreError::Worker {
            reason: error.to_string(),
        })?;
        Ok(Arc::new(Self { shared }))
    }

    /// Queues a piece for packing. Waits while more than the bound waits already; a piece that is larger than the bound
    /// waits until it is alone.
    pub(crate) fn save(self: &Arc<Self>, piece: Piece) -> Result<Box<dyn Held>, StoreError> {
        let shared = &self.shared;
        let len = piece.record.len_bytes() as u64;
        let mut queues = lock(&shared.queues);
        while queues.packing > 0 && queues.packing.saturating_add(len) > shared.bound {
            queues = wait(&shared.changed, queues);
        }
        if let Some((failed, error)) = queues.failed.take() {
            // A tape that was given up does not fail the next one.
            if queues.open.contains_key(&failed) {
                return Err(error);
            }
        }
        let flight = shared.flight(&mut queues, Way::In, len);
        let sequence = queues.next;
        queues.next += 1;
        queues.asked_from = u64::MAX;
        let slot = Arc::new(Slot::new(sequence, piece));
        queues.open.insert(sequence, (Arc::downgrade(&slot), len));
        queues.to_pack.push_back(Job {
            slot: Arc::downgrade(&slot),
            flight,
        });
        drop(queues);
        shared.changed.notify_all();
        Ok(Box::new(Open {
            slot,
            overlap: self.clone(),
        }))
    }

    /// Waits until everything that was saved is packed and nothing is being fetched.
    pub(crate) fn settle(&self) {
        let mut queues = lock(&self.shared.queues);
        while queues.working == Working::Busy || !queues.to_pack.is_empty() || !queues.to_fetch.is_empty() {
            queues = wait(&self.shared.changed, queues);
        }
    }

    pub(crate) fn top(&self) -> &dyn Layer {
        &*self.shared.top
    }

    /// Bytes that wait to be packed or were fetched ahead: now, and at the most.
    pub(crate) fn in_flight(&self) -> (u64, u64) {
        (self.shared.in_flight.now(), self.shared.in_flight.peak())
    }
}

impl Drop for Overlap {
    fn drop(&mut self) {
        lock(&self.shared.queues).ending = true;
        self.shared.changed.notify_all();
    }
}

/// What a ticket holds on to: its record and the thread that works for it.
struct Open {
    slot: Arc<Slot>,
    overlap: Arc<Overlap>,
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.overlap.shared.queues).open.remove(&self.slot.sequence);
    }
}

impl Held for Open {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        self.overlap.shared.ask_ahead(self.slot.sequence);
        self.slot.take()
    }

    fn kept_bytes(&self) -> usize {
        self.slot.kept_bytes()
    }
}

impl Shared {
    fn flight(self: &Arc<Self>, queues: &mut Queues, way: Way, len: u64) -> Flight {
        *queues.bytes(way) += len;
        self.in_flight.add(len);
        Flight {
            shared: self.clone(),
            way,
            len,
        }
    }

    /// Asks for what was saved before `sequence`, latest first, as far as the bound reaches.
    fn ask_ahead(self: &Arc<Self>, sequence: u64) {
        let mut queues = lock(&self.queues);
        loop {
            let from = queues.asked_from.min(sequence);
            let earlier = queues.open.range(..from).next_back();
            let Some((sequence, slot, len)) = earlier.map(|(sequence, (slot, len))| (*sequence, slot.clone(), *len))
            else {
                break;
            };
            if queues.ahead > 0 && queues.ahead.saturating_add(len) > self.bound {
                break;
            }
            queues.asked_from = sequence;
            let flight = self.flight(&mut queues, Way::Out, len);
            queues.to_fetch.push_back(Job { slot, flight });
        }
        drop(queues);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
