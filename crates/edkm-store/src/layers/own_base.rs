//! A backend of one's own under the layers of a store.

use std::sync::Arc;

use super::{below, verify, Layer, Piece};
use crate::digest::Digest;
use crate::meter::{Charge, Meter, Side};
use crate::{Backend, Held, Report, SharedBytes, StoreError, Ticket};

/// Gives the bytes to another backend, and compares what comes back with their checksum.
pub(crate) struct OwnBase {
    backend: Arc<dyn Backend>,
    meter: Arc<Meter>,
}

const NAME: &str = "base";

impl OwnBase {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            meter: Meter::new(NAME),
        }
    }
}

struct Kept {
    held: Ticket,
    digest: Digest,
    label: &'static str,
    meter: Arc<Meter>,
    _charges: [Charge; 2],
}

impl Layer for OwnBase {
    fn save(&self, mut piece: Piece) -> Result<Box<dyn Held>, StoreError> {
        let (len, label) = (piece.bytes().len(), piece.record.label);
        let (digest, held) = self.meter.packing(|| {
            let digest = piece.digest();
            self.backend.save(piece.record).map(|held| (digest, held))
        })?;
        self.meter.saved();
        let kept = held.kept_bytes();
        Ok(Box::new(Kept {
            held,
            digest,
            label,
            meter: self.meter.clone(),
            _charges: [(Side::Logical, len), (Side::Kept, kept)].map(|(side, bytes)| self.meter.charge(side, bytes)),
        }))
    }

    fn quote(&self, piece: Piece) -> Result<usize, StoreError> {
        Ok(self.backend.quote(&piece.record).kept_bytes)
    }

    fn report(&self, report: &mut Report) {
        let (of_backend, here) = (self.backend.report(), self.meter.report());
        // a backend that counts no peak holds what it was given at least, unless that is on a disk
        let peak = match of_backend.disk_peak_bytes {
            0 => of_backend.peak_bytes.max(here.peak_bytes),
            _ => of_backend.peak_bytes,
        };
        (report.held_bytes, report.peak_bytes) = (of_backend.held_bytes, peak);
        (report.disk_bytes, report.disk_peak_bytes) = (of_backend.disk_bytes, of_backend.disk_peak_bytes);
        report.layers.push(here);
    }
}

impl Held for Kept {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        self.meter
            .unpacking(|| verify(self.held.fetch()?, self.digest, self.label, NAME))
    }

    below!();
}
