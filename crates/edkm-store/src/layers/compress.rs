//! Compression of whatever reaches this layer, by a codec of the user's choice.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use super::{below, verify, Layer, Origin, Piece};
use crate::bytes::Buffer;
use crate::codec::Codec;
use crate::digest::Digest;
use crate::meter::{Charge, Meter, Side};
use crate::{DType, Held, Record, Report, SharedBytes, StoreError};

/// Encodes what shrinks and passes on the rest as it is.
pub(crate) struct Compress {
    below: Box<dyn Layer>,
    codec: Arc<dyn Codec>,
    meter: Arc<Meter>,
}

const NAME: &str = "compress";

/// Shorter pieces cost more to describe than a codec can win.
const MIN_LEN: usize = 128;

impl Compress {
    pub(crate) fn new(codec: Arc<dyn Codec>, below: Box<dyn Layer>) -> Self {
        Self {
            below,
            codec,
            meter: Meter::new(NAME),
        }
    }

    fn encode(&self, record: &Record) -> Result<Option<Vec<u8>>, StoreError> {
        let bytes = record.bytes.as_bytes();
        if bytes.len() < MIN_LEN {
            return Ok(None);
        }
        let encoded = guarded(&*self.codec, record.label, "encode", || {
            Ok(self.codec.encode(bytes, record.dtype.size()))
        })?;
        Ok(encoded.filter(|encoded| encoded.len() < bytes.len()))
    }
}

/// The piece that goes on instead of `record`. It is stored as plain bytes.
fn encoded_piece(record: &Record, encoded: Vec<u8>) -> Piece {
    let shape = [encoded.len()];
    let record = Record::new(Arc::new(encoded), DType::U8, shape, record.label).with_placement(record.placement);
    Piece {
        record,
        digest: None,
        origin: Origin::Layer,
    }
}

struct Encoded {
    held: Box<dyn Held>,
    codec: Arc<dyn Codec>,
    len: usize,
    dtype: DType,
    digest: Digest,
    label: &'static str,
    meter: Arc<Meter>,
    _charges: [Charge; 2],
}

/// A piece that did not shrink, counted.
struct Raw {
    held: Box<dyn Held>,
    _charges: [Charge; 2],
}

impl Layer for Compress {
    fn save(&self, mut piece: Piece) -> Result<Box<dyn Held>, StoreError> {
        self.meter.saved();
        let len = piece.bytes().len();
        let encoded = self.meter.packing(|| self.encode(&piece.record))?;
        let charges = |kept| {
            [
                self.meter.charge(Side::Logical, len),
                self.meter.charge(Side::Kept, kept),
            ]
        };
        let Some(encoded) = encoded else {
            let _charges = charges(len);
            return Ok(Box::new(Raw {
                held: self.below.save(piece)?,
                _charges,
            }));
        };
        self.meter.hit();
        let digest = self.meter.packing(|| piece.digest());
        let _charges = charges(encoded.len());
        let Record { dtype, label, .. } = piece.record;
        let encoded = encoded_piece(&piece.record, encoded);
        // What the encoded bytes replace is given up before the layers below take memory of their own.
        drop(piece);
        Ok(Box::new(Encoded {
            held: self.below.save(encoded)?,
            codec: self.codec.clone(),
            len,
            dtype,
            digest,
            label,
            meter: self.meter.clone(),
            _charges,
        }))
    }

    fn quote(&self, piece: Piece) -> Result<usize, StoreError> {
        match self.encode(&piece.record)? {
            Some(encoded) => self.below.quote(encoded_piece(&piece.record, encoded)),
            None => self.below.quote(piece),
        }
    }

    fn report(&self, report: &mut Report) {
        report.layers.push(self.meter.report());
        self.below.report(report);
    }
}

impl Held for Encoded {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        let encoded = self.held.fetch()?;
        self.meter.unpacking(|| {
            let mut decoded = Buffer::zeroed(self.dtype, self.len);
            let out = decoded.as_mut_bytes();
            guarded(&*self.codec, self.label, "decode", || {
                self.codec
                    .decode(encoded.as_bytes(), self.dtype.size(), out)
                    .map_err(|error| error.0)
            })?;
            verify(decoded.into_shared(), self.digest, self.label, NAME)
        })
    }

    below!();
}

impl Held for Raw {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        self.held.fetch()
    }

    below!();
}

/// Runs a codec of the user's; a panic in it becomes an error.
fn guarded<R>(
    codec: &dyn Codec,
    label: &'static str,
    doing: &'static str,
    work: impl FnOnce() -> Result<R, String>,
) -> Result<R, StoreError> {
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(crate::panics::message(&*panic)));
    result.map_err(|reason| StoreError::Codec {
        label,
        codec: codec.name(),
        doing,
        reason,
    })
}
