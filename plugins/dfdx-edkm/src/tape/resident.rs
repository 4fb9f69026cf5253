//! Saved tensors that stay in the device's memory, up to a budget. The newest stay, since backward asks for them first: what goes to the store has the
//! longest time to go and to come back.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfdx::prelude::*;
use edkm_store::{Bytes, Ticket};

use super::byte_len;
use crate::device::DeviceMemory;
use crate::ops::Vector;
use crate::SaveAs;

/// How much of what tapes save may stay in the memory of their device, and how much does. Clones are the same budget.
#[derive(Debug, Clone)]
pub struct DeviceBudget {
    bytes: Bytes,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    held: u64,
    peak: u64,
    /// Saved tensors by where their numbers begin: several may share them.
    sharers: HashMap<u64, usize>,
}

impl DeviceBudget {
    /// So many bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self {
            bytes: bytes.into(),
            counts: Arc::default(),
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that stay at present. Numbers that several saved tensors share are counted once.
    pub fn held_bytes(&self) -> u64 {
        self.counts().held
    }

    /// Bytes that stayed at the most.
    pub fn peak_bytes(&self) -> u64 {
        self.counts().peak
    }

    fn is_exceeded(&self) -> bool {
        self.held_bytes() > self.bytes.0
    }

    fn enter(&self, address: u64, bytes: u64) {
        let counts = &mut *self.counts();
        let sharers = counts.sharers.entry(address).or_default();
        if *sharers == 0 {
            counts.held += bytes;
        }
        *sharers += 1;
    }

    fn leave(&self, address: u64, bytes: u64) {
        let counts = &mut *self.counts();
        if let Some(sharers) = counts.sharers.get_mut(&address) {
            *sharers -= 1;
            if *sharers == 0 {
                counts.sharers.remove(&address);
                counts.held -= bytes;
            }
        }
    }

    fn note_peak(&self) {
        let counts = &mut *self.counts();
        counts.peak = counts.peak.max(counts.held);
    }
}

/// What a tape keeps on its device, oldest first.
pub(crate) struct Residents<E, D: Storage<E>> {
    budget: DeviceBudget,
    queue: VecDeque<Weak<Resident<E, D>>>,
}

/// A saved tensor that is on the device, or was until it went to the store.
pub struct Resident<E, D: Storage<E>> {
    place: RefCell<Place<E, D>>,
    /// Lengths of the tensor's axes, for the store.
    shape: Vec<usize>,
    how: SaveAs,
}

enum Place<E, D: Storage<E>> {
    Device(Stay<E, D>),
    Store(Ticket),
    /// Loaded, or lost to a store that failed.
    Gone,
}

/// A tensor on the device, counted until this is dropped.
struct Stay<E, D: Storage<E>> {
    tensor: Tensor<(usize,), E, D>,
    address: u64,
    bytes: u64,
    budget: DeviceBudget,
}

impl<E, D: Storage<E>> Drop for Stay<E, D> {
    fn drop(&mut self) {
        self.budget.leave(self.address, self.bytes);
    }
}

/// What [`Resident::take`] finds.
pub(crate) enum Taken<D: DeviceMemory> {
    Tensor(Vector<D>),
    Ticket(Ticket),
    Nothing,
}

impl<E, D: Storage<E>> Residents<E, D> {
    pub(crate) fn new(budget: DeviceBudget) -> Self {
        Self {
            budget,
            queue: VecDeque::new(),
        }
    }

    pub(crate) fn append(&mut self, mut later: Self) {
        self.queue.append(&mut later.queue);
    }
}

impl<D: DeviceMemory> Residents<f32, D> {
    /// Keeps a contiguous tensor. [`Self::make_room`] comes next.
    pub(crate) fn keep<S: Shape>(
        &mut self,
        tensor: Tensor<S, f32, D>,
        how: SaveAs,
    ) -> Result<Rc<Resident<f32, D>>, D::Err> {
        let shape = tensor.shape().concrete().into();
        let len = tensor.shape().num_elements();
        let tensor = tensor.try_reshape_like(&(len,))?;
        let (address, bytes) = (D::address(&tensor), byte_len(&tensor) as u64);
        self.budget.enter(address, bytes);
        let resident = Rc::new(Resident {
            place: RefCell::new(Place::Device(Stay {
                tensor,
                address,
                bytes,
                budget: self.budget.clone(),
            })),
            shape,
            how,
        });
        self.queue.push_back(Rc::downgrade(&resident));
        Ok(resident)
    }

    /// Gives the oldest to `store` until the budget suffices.
    pub(crate) fn make_room<Err>(
        &mut self,
        mut store: impl FnMut(Vector<D>, &[usize], SaveAs) -> Result<Ticket, Err>,
    ) -> Result<(), Err> {
        while self.budget.is_exceeded() {
            // what is left then is another tape's
            let Some(oldest) = self.queue.pop_front() else { break };
            if let Some(oldest) = oldest.upgrade() {
                oldest.give_to(&mut store)?;
            }
        }
        self.budget.note_peak();
        Ok(())
    }
}

impl<D: DeviceMemory> Resident<f32, D> {
    fn give_to<Err>(&self, store: impl FnOnce(Vector<D>, &[usize], SaveAs) -> Result<Ticket, Err>) -> Result<(), Err> {
        let place = match self.place.replace(Place::Gone) {
            Place::Device(stay) => Place::Store(store(stay.tensor.clone(), &self.shape, self.how)?),
            other => other,
        };
        self.place.replace(place);
        Ok(())
    }

    /// The tensor, or the ticket for it. Once.
    pub(crate) fn take(&self) -> Taken<D> {
        match self.place.replace(Place::Gone) {
            Place::Device(stay) => Taken::Tensor(stay.tensor.clone()),
            Place::Store(ticket) => Taken::Ticket(ticket),
            Place::Gone => Taken::Nothing,
        }
    }
}
