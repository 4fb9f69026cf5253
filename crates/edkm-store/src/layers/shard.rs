//! Sharding (eDKM, arXiv 2309.00964, section 2): what all learners hold alike is split among them.

use std::sync::Arc;

use super::{verify, Layer, Origin, Piece};
use crate::bytes::Buffer;
use crate::digest::Digest;
use crate::learners::LearnerGroup;
use crate::meter::{Charge, Meter, Side};
use crate::{DType, Held, Placement, Record, Report, SharedBytes, StoreError};

/// Keeps one part in `world` of every replicated record and gathers the others when it is fetched.
///
/// A fetch costs the whole record, in memory that lasts until its reader drops it, on every learner at once.
pub(crate) struct Shard {
    below: Box<dyn Layer>,
    group: Arc<dyn LearnerGroup>,
    meter: Arc<Meter>,
}

const NAME: &str = "shard";

impl Shard {
    pub(crate) fn new(group: Arc<dyn LearnerGroup>, below: Box<dyn Layer>) -> Self {
        Self {
            below,
            group,
            meter: Meter::new(NAME),
        }
    }

    /// This learner's part of a record that is to be shared out.
    fn part(&self, piece: &Piece) -> Option<Piece> {
        let record = &piece.record;
        if record.placement != Placement::Replicated || self.group.world() < 2 {
            return None;
        }
        let bytes = piece.bytes();
        let range = part_range(bytes.len(), record.dtype, self.group.rank(), self.group.world());
        let mut part = Buffer::zeroed(record.dtype, range.len());
        let shape = [range.len() / record.dtype.size()];
        part.as_mut_bytes().copy_from_slice(&bytes[range]);
        let record =
            Record::new(part.into_shared(), record.dtype, shape, record.label).with_precision(record.precision);
        Some(Piece {
            record,
            digest: None,
            origin: Origin::Layer,
        })
    }
}

/// The bytes that learner `rank` keeps: whole elements, equally many for all but the last ones, which have what is left.
fn part_range(len: usize, dtype: DType, rank: usize, world: usize) -> std::ops::Range<usize> {
    let part = (len / dtype.size()).div_ceil(world.max(1)) * dtype.size();
    let start = rank.saturating_mul(part).min(len);
    start..start.saturating_add(part).min(len)
}

struct Part {
    held: Box<dyn Held>,
    group: Arc<dyn LearnerGroup>,
    len: usize,
    dtype: DType,
    /// Of the whole record. It also finds out a record that was not replicated after all.
    digest: Digest,
    label: &'static str,
    meter: Arc<Meter>,
    _charges: [Charge; 2],
}

impl Layer for Shard {
    fn save(&self, mut piece: Piece) -> Result<Box<dyn Held>, StoreError> {
        let Some(part) = self.meter.packing(|| self.part(&piece)) else {
            return self.below.save(piece);
        };
        self.meter.saved();
        self.meter.hit();
        let digest = self.meter.packing(|| piece.digest());
        let len = piece.bytes().len();
        let Record { dtype, label, .. } = piece.record;
        drop(piece);
        let _charges = [
            self.meter.charge(Side::Logical, len),
            self.meter.charge(Side::Kept, part.bytes().len()),
        ];
        let held = self.below.save(part)?;
        let (group, meter) = (self.group.clone(), self.meter.clone());
        Ok(Box::new(Part {
            held,
            group,
            len,
            dtype,
            digest,
            label,
            meter,
            _charges,
        }))
    }

    fn quote(&self, piece: Piece) -> Result<usize, StoreError> {
        self.below.quote(self.part(&piece).unwrap_or(piece))
    }

    fn report(&self, report: &mut Report) {
        report.layers.push(self.meter.report());
        self.below.report(report);
    }
}

impl Part {
    fn join(&self, parts: &[Arc<dyn SharedBytes>]) -> Result<Arc<dyn SharedBytes>, StoreError> {
        let world = self.group.world();
        let mut whole = Buffer::zeroed(self.dtype, self.len);
        let out = whole.as_mut_bytes();
        for rank in 0..world {
            let range = part_range(self.len, self.dtype, rank, world);
            let part = parts.get(rank).map_or(&[][..], |part| part.as_bytes());
            if part.len() != range.len() {
                let reason = format!(
                    "gave {} bytes of `{}` where {} were expected",
                    part.len(),
                    self.label,
                    range.len()
                );
                return Err(StoreError::Learner { rank, world, reason });
            }
            out[range].copy_from_slice(part);
        }
        verify(whole.into_shared(), self.digest, self.label, NAME)
    }
}

impl Held for Part {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        let part = self.held.fetch()?;
        self.meter
            .unpacking(|| self.join(&self.group.all_gather(self.digest.tag(), part)?))
    }

    fn kept_bytes(&self) -> usize {
        self.held.kept_bytes()
    }

    fn warm(&self) {
        self.held.warm();
    }

    fn gathers(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_byte_once_and_split_no_element() {
        for len in [0, 4, 8, 12, 28, 32, 36, 4000] {
            for world in [1, 2, 3, 8, 9] {
                let mut next = 0;
                for rank in 0..world {
                    let range = part_range(len, DType::F32, rank, world);
                    assert_eq!(
                        (range.start, range.len() % 4),
                        (next.min(len), 0),
                        "{len} bytes, learner {rank} of {world}"
                    );
                    assert!(range.len() <= (len / 4).div_ceil(world) * 4);
                    next = range.end;
                }
                assert_eq!(next, len);
            }
        }
    }
}
