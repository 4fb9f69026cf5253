//! The base that keeps a budget in memory and the rest in a file.

mod extents;
mod file;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use super::{verify, Layer, Piece};
use crate::bytes::Buffer;
use crate::digest::Digest;
use crate::lock::lock;
use crate::meter::{Charge, Meter, Side};
use crate::{Bytes, DType, Held, Report, SharedBytes, StoreError};
use file::{Extent, SpillFile};

/// Keeps blobs in memory up to a budget. Above it the oldest go to the file: backward asks for them last.
pub(crate) struct Spill {
    file: Arc<SpillFile>,
    budget: u64,
    resident: Mutex<Resident>,
    memory: Arc<Meter>,
    disk: Arc<Meter>,
}

const NAME: &str = "spill";

/// Blobs that may be in memory, oldest first.
#[derive(Default)]
struct Resident {
    blobs: VecDeque<Weak<Blob>>,
    /// The length at which those that are gone are swept out.
    sweep_at: usize,
}

struct Blob {
    place: Mutex<Place>,
    len: usize,
    dtype: DType,
    digest: Digest,
    label: &'static str,
    disk: Arc<Meter>,
    _logical: Charge,
}

enum Place {
    Memory {
        bytes: Arc<dyn SharedBytes>,
        _charged: [Charge; 2],
    },
    Disk {
        extent: Extent,
        ahead: Option<Arc<dyn SharedBytes>>,
        _kept: Charge,
    },
}

impl Spill {
    /// # Errors
    /// The directory does not exist, or no file can be made in it.
    pub(crate) fn new(dir: PathBuf, budget: Bytes) -> Result<Self, StoreError> {
        Ok(Self {
            file: SpillFile::create(dir)?,
            budget: budget.0,
            resident: Mutex::default(),
            memory: Meter::new("memory"),
            disk: Meter::new(NAME),
        })
    }

    fn fits(&self, len: usize) -> bool {
        self.memory.kept().saturating_add(len as u64) <= self.budget
    }

    /// Where `bytes` go: to memory if the budget allows it once the oldest blobs have gone to the file. Those stay where they are if it never would.
    fn place(&self, bytes: Arc<dyn SharedBytes>, resident: &mut Resident) -> Result<Place, StoreError> {
        let len = bytes.as_bytes().len();
        if len as u64 > self.budget {
            return self.write(&*bytes);
        }
        while !self.fits(len) {
            let Some(oldest) = resident.blobs.front() else {
                return self.write(&*bytes);
            };
            if let Some(blob) = oldest.upgrade() {
                let mut place = lock(&blob.place);
                if let Place::Memory { bytes, .. } = &*place {
                    *place = self.write(&**bytes)?;
                }
            }
            resident.blobs.pop_front();
        }
        Ok(Place::Memory {
            bytes,
            _charged: [Side::Logical, Side::Kept].map(|side| self.memory.charge(side, len)),
        })
    }

    fn write(&self, bytes: &dyn SharedBytes) -> Result<Place, StoreError> {
        let bytes = bytes.as_bytes();
        let extent = self.disk.packing(|| self.file.write(bytes))?;
        self.disk.hit();
        Ok(Place::Disk {
            extent,
            ahead: None,
            _kept: self.disk.charge(Side::Kept, bytes.len()),
        })
    }
}

impl Resident {
    fn push(&mut self, blob: Weak<Blob>) {
        if self.blobs.len() >= self.sweep_at {
            self.blobs.retain(|blob| blob.strong_count() > 0);
            self.sweep_at = 2 * self.blobs.len() + 64;
        }
        self.blobs.push_back(blob);
    }
}

impl Layer for Spill {
    fn save(&self, mut piece: Piece) -> Result<Box<dyn Held>, StoreError> {
        let digest = self.memory.packing(|| piece.digest());
        let len = piece.bytes().len();
        for meter in [&self.memory, &self.disk] {
            meter.saved();
        }
        let bytes = piece.record.bytes;
        let mut resident = lock(&self.resident);
        let blob = Arc::new(Blob {
            place: Mutex::new(self.place(bytes, &mut resident)?),
            len,
            dtype: piece.record.dtype,
            digest,
            label: piece.record.label,
            disk: self.disk.clone(),
            _logical: self.disk.charge(Side::Logical, len),
        });
        resident.push(Arc::downgrade(&blob));
        Ok(Box::new(blob))
    }

    fn quote(&self, piece: Piece) -> Result<usize, StoreError> {
        Ok(piece.bytes().len())
    }

    fn report(&self, report: &mut Report) {
        let (memory, disk) = (self.memory.report(), self.disk.report());
        (report.held_bytes, report.peak_bytes) = (memory.kept_bytes, memory.peak_bytes);
        (report.disk_bytes, report.disk_peak_bytes) = (disk.kept_bytes, disk.peak_bytes);
        report.layers.extend([disk, memory]);
    }
}

impl Blob {
    fn read(&self, extent: &Extent) -> Result<Arc<dyn SharedBytes>, StoreError> {
        self.disk.unpacking(|| {
            let mut buffer = Buffer::zeroed(self.dtype, self.len);
            extent.read(buffer.as_mut_bytes())?;
            Ok(buffer.into_shared())
        })
    }
}

impl Held for Arc<Blob> {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        let bytes = match &*lock(&self.place) {
            Place::Memory { bytes, .. } | Place::Disk { ahead: Some(bytes), .. } => bytes.clone(),
            Place::Disk { extent, .. } => self.read(extent)?,
        };
        self.disk.unpacking(|| verify(bytes, self.digest, self.label, NAME))
    }

    fn kept_bytes(&self) -> usize {
        self.len
    }

    fn warm(&self) {
        if let Place::Disk {
            extent,
            ahead: ahead @ None,
            ..
        } = &mut *lock(&self.place)
        {
            *ahead = self.read(extent).ok();
        }
    }
}

#[cfg(test)]
mod tests;
