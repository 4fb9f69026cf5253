//! How much is copied between the host and a GPU.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Copies in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copies {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What this crate has copied between the host and a GPU since the program began: saved tensors, and what goes between kernels and the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the GPU.
    pub to_host: Copies,
    /// To the GPU.
    pub to_gpu: Copies,
}

/// The account of one GPU.
#[derive(Debug, Default)]
pub(super) struct TrafficMeter {
    to_host: Meter,
    to_gpu: Meter,
}

#[derive(Debug, Default)]
struct Meter {
    count: AtomicU64,
    bytes: AtomicU64,
}

impl Meter {
    fn add(&self, bytes: usize) {
        self.count.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    fn get(&self) -> Copies {
        Copies {
            count: self.count.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }
}

impl TrafficMeter {
    /// A copy of so many bytes from the GPU.
    pub(super) fn to_host(&self, bytes: usize) {
        self.to_host.add(bytes);
    }

    /// A copy of so many bytes to the GPU.
    pub(super) fn to_gpu(&self, bytes: usize) {
        self.to_gpu.add(bytes);
    }

    pub(super) fn get(&self) -> Traffic {
        Traffic {
            to_host: self.to_host.get(),
            to_gpu: self.to_gpu.get(),
        }
    }
}
