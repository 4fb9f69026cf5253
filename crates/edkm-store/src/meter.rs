//! Counting what is held, so that what was charged is given back exactly when it is dropped.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Instant;

use crate::LayerReport;

/// A number that goes up and down, and the largest value that it had.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    now: AtomicU64,
    peak: AtomicU64,
}

impl Gauge {
    pub(crate) fn add(&self, amount: u64) {
        let now = self.now.fetch_add(amount, Relaxed) + amount;
        self.peak.fetch_max(now, Relaxed);
    }

    pub(crate) fn sub(&self, amount: u64) {
        self.now.fetch_sub(amount, Relaxed);
    }

    pub(crate) fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }
}

/// An amount on a gauge that is taken off it when dropped.
pub(crate) struct Charge {
    meter: Arc<Meter>,
    side: Side,
    amount: u64,
}

#[derive(Clone, Copy)]
pub(crate) enum Side {
    Logical,
    Kept,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.meter.side(self.side).sub(self.amount);
    }
}

/// The account of one layer.
#[derive(Debug)]
pub(crate) struct Meter {
    name: &'static str,
    logical: Gauge,
    kept: Gauge,
    saves: AtomicU64,
    hits: AtomicU64,
    pack_nanos: AtomicU64,
    unpack_nanos: AtomicU64,
}

impl Meter {
    pub(crate) fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            logical: Gauge::default(),
            kept: Gauge::default(),
            saves: AtomicU64::default(),
            hits: AtomicU64::default(),
            pack_nanos: AtomicU64::default(),
            unpack_nanos: AtomicU64::default(),
        })
    }

    fn side(&self, side: Side) -> &Gauge {
        match side {
            Side::Logical => &self.logical,
            Side::Kept => &self.kept,
        }
    }

    /// Counts `bytes` until the charge is dropped.
    pub(crate) fn charge(self: &Arc<Self>, side: Side, bytes: usize) -> Charge {
        let amount = bytes as u64;
        self.side(side).add(amount);
        Charge {
            meter: self.clone(),
            side,
            amount,
        }
    }

    /// Bytes that the layer keeps now.
    pub(crate) fn kept(&self) -> u64 {
        self.kept.now()
    }

    /// Bytes handed to the layer that are held now, and the most that were.
    pub(crate) fn logical(&self) -> (u64, u64) {
        (self.logical.now(), self.logical.peak())
    }

    pub(crate) fn saved(&self) {
        self.saves.fetch_add(1, Relaxed);
    }

    pub(crate) fn hit(&self) {
        self.hits.fetch_add(1, Relaxed);
    }

    /// Runs `work` and counts its time as packing.
    pub(crate) fn packing<R>(&self, work: impl FnOnce() -> R) -> R {
        let _span = tracing::trace_span!("pack", layer = self.name).entered();
        timed(&self.pack_nanos, work)
    }

    /// Runs `work` and counts its time as unpacking.
    pub(crate) fn unpacking<R>(&self, work: impl FnOnce() -> R) -> R {
        let _span = tracing::trace_span!("unpack", layer = self.name).entered();
        timed(&self.unpack_nanos, work)
    }

    pub(crate) fn report(&self) -> LayerReport {
        let seconds = |nanos: &AtomicU64| nanos.load(Relaxed) as f64 * 1e-9;
        LayerReport {
            name: self.name,
            logical_bytes: self.logical.now(),
            logical_peak_bytes: self.logical.peak(),
            kept_bytes: self.kept.now(),
            peak_bytes: self.kept.peak(),
            saves: self.saves.load(Relaxed),
            hits: self.hits.load(Relaxed),
            pack_seconds: seconds(&self.pack_nanos),
            unpack_seconds: seconds(&self.unpack_nanos),
        }
    }
}

fn timed<R>(nanos: &AtomicU64, work: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = work();
    nanos.fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
    result
}
