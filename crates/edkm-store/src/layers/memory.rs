//! The base that keeps bytes in memory as they are.

use std::sync::Arc;

use super::{verify, Layer, Piece};
use crate::digest::Digest;
use crate::meter::{Charge, Meter, Side};
use crate::{Held, Report, SharedBytes, StoreError};

/// Keeps a reference to the bytes, without a copy, and their checksum.
pub(crate) struct Memory {
    meter: Arc<Meter>,
}

const NAME: &str = "memory";

impl Memory {
    pub(crate) fn new() -> Self {
        Self {
            meter: Meter::new(NAME),
        }
    }
}

struct Blob {
    bytes: Arc<dyn SharedBytes>,
    digest: Digest,
    label: &'static str,
    meter: Arc<Meter>,
    _charges: [Charge; 2],
}

impl Layer for Memory {
    fn save(&self, mut piece: Piece) -> Result<Box<dyn Held>, StoreError> {
        let digest = self.meter.packing(|| piece.digest());
        self.meter.saved();
        let len = piece.bytes().len();
        Ok(Box::new(Blob {
            bytes: piece.record.bytes,
            digest,
            label: piece.record.label,
            meter: self.meter.clone(),
            _charges: [Side::Logical, Side::Kept].map(|side| self.meter.charge(side, len)),
        }))
    }

    fn quote(&self, piece: Piece) -> Result<usize, StoreError> {
        Ok(piece.bytes().len())
    }

    fn report(&self, report: &mut Report) {
        let base = self.meter.report();
        (report.held_bytes, report.peak_bytes) = (base.kept_bytes, base.peak_bytes);
        report.layers.push(base);
    }
}

impl Held for Blob {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        self.meter
            .unpacking(|| verify(self.bytes.clone(), self.digest, self.label, NAME))
    }

    fn kept_bytes(&self) -> usize {
        self.bytes.as_bytes().len()
    }
}
