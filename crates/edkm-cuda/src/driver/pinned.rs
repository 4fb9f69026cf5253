//! Page-locked memory of the host, which a GPU copies from and to by itself. Locking pages is slow, and what is locked is gone for everyone else: so
//! buffers are used again, and there is a bound to them.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{sys, CudaDevice, DriverError};

use super::meeting::GATE;

/// Buffers of page-locked memory.
pub(super) struct Pool {
    device: Arc<CudaDevice>,
    bound: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Buffers that nobody uses, by capacity.
    idle: BTreeMap<usize, Vec<Locked>>,
    /// Bytes of all buffers, used and idle.
    bytes: u64,
    peak: u64,
}

/// A page-locked buffer.
struct Locked {
    address: *mut u8,
    capacity: usize,
}

// SAFETY: an address of plain memory, owned by whoever has the value.
unsafe impl Send for Locked {}

/// A buffer in use. It goes back to its pool when it is dropped, by when no copy may reach it.
pub(super) struct Pinned {
    locked: Locked,
    len: usize,
    pool: Arc<Pool>,
}

// SAFETY: the bytes are reached through `&self` for reading and `&mut self` for writing alone.
unsafe impl Sync for Pinned {}

/// What a buffer of so many bytes is made with, so that buffers fit again: at most an eighth more.
fn capacity_for(len: usize) -> usize {
    const LEAST: usize = 4096;
    let step = (len.max(LEAST).next_power_of_two() / 16).max(1);
    len.max(LEAST).next_multiple_of(step)
}

impl Pool {
    pub(super) fn new(device: &Arc<CudaDevice>, bound: u64) -> Arc<Self> {
        Arc::new(Self {
            device: device.clone(),
            bound,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of all buffers: now, and at the most.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let state = self.state();
        (state.bytes, state.peak)
    }

    /// A buffer of so many bytes, with whatever stands in it; none if the bound, or what the system lets be locked, is reached.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Option<Pinned> {
        let capacity = capacity_for(len);
        let mut state = self.state();
        let idle = state.idle.get_mut(&capacity).and_then(Vec::pop);
        let locked = match idle {
            Some(locked) => Some(locked),
            None => self.lock(&mut state, capacity),
        };
        drop(state);
        locked.map(|locked| Pinned {
            locked,
            len,
            pool: self.clone(),
        })
    }

    /// A new buffer, in the place of idle ones where the bound wants it.
    fn lock(&self, state: &mut State, capacity: usize) -> Option<Locked> {
        let used: u64 = state.bytes - idle_bytes(state);
        if used + capacity as u64 > self.bound {
            return None;
        }
        while state.bytes + capacity as u64 > self.bound {
            let mut largest = state.idle.last_entry()?;
            match largest.get_mut().pop() {
                Some(buffer) => self.unlock(state, &buffer),
                None => drop(largest.remove()),
            }
        }
        let mut address = std::ptr::null_mut();
        // SAFETY: writes the address of so many bytes to the local variable.
        let outcome = self
            .device
            .bind_to_thread()
            .and_then(|()| GATE.lock_pages(|| unsafe { sys::cuMemHostAlloc(&mut address, capacity, 0) }.result()));
        if let Err(error) = outcome {
            tracing::debug!(?error, capacity, "no page-locked memory");
            return None;
        }
        state.bytes += capacity as u64;
        state.peak = state.peak.max(state.bytes);
        Some(Locked {
            address: address.cast(),
            capacity,
        })
    }

    fn unlock(&self, state: &mut State, locked: &Locked) {
        state.bytes -= locked.capacity as u64;
        // SAFETY: made by `lock`, and nobody has it any more. A failure has nobody to go to.
        let _ = self
            .device
            .bind_to_thread()
            .and_then(|()| GATE.lock_pages(|| unsafe { sys::cuMemFreeHost(locked.address.cast()) }.result()));
    }
}

fn idle_bytes(state: &State) -> u64 {
    let bytes = |(capacity, buffers): (&usize, &Vec<Locked>)| (capacity * buffers.len()) as u64;
    state.idle.iter().map(bytes).sum()
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *self.state());
        for locked in std::mem::take(&mut state.idle).into_values().flatten() {
            self.unlock(&mut state, &locked);
        }
    }
}

impl Pinned {
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer has at least `len` bytes, made by the driver: to Rust they are bytes of some value from the first.
        unsafe { std::slice::from_raw_parts(self.locked.address, self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow of `self` is unique.
        unsafe { std::slice::from_raw_parts_mut(self.locked.address, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let Locked { address, capacity } = self.locked;
        let mut state = self.pool.state();
        state
            .idle
            .entry(capacity)
            .or_default()
            .push(Locked { address, capacity });
    }
}

/// Errors of the driver as words.
pub(super) fn in_words(error: DriverError) -> String {
    super::GpuError::from(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::capacity_for;

    #[test]
    fn capacities_are_little_more_and_few() {
        let mut distinct = std::collections::BTreeSet::new();
        for len in (0..1 << 20).step_by(37) {
            let capacity = capacity_for(len);
            assert!(
                capacity >= len && capacity <= 4096.max(len + len / 8),
                "{len}: {capacity}"
            );
            assert_eq!(capacity_for(capacity), capacity);
            distinct.insert(capacity);
        }
        assert!(distinct.len() <= 80, "{}", distinct.len());
    }
}
