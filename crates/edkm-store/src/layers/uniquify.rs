//! Uniquification: a record whose rows repeat goes on as a table of distinct rows and an index.

use std::sync::Arc;

use super::{Layer, Origin, Piece};
use crate::bytes::Buffer;
use crate::meter::{Charge, Meter, Side};
use crate::unique::{expand, Unique};
use crate::{DType, Held, Record, Report, SharedBytes, StoreError};

/// Takes records apart whose rows repeat and passes on the rest. A row is what one index of the first axis selects.
pub(crate) struct Uniquify {
    below: Box<dyn Layer>,
    meter: Arc<Meter>,
}

const NAME: &str = "uniquify";

impl Uniquify {
    pub(crate) fn new(below: Box<dyn Layer>) -> Self {
        Self {
            below,
            meter: Meter::new(NAME),
        }
    }
}

/// Table, index, and the width of the index in bits.
fn take_apart(record: &Record) -> Option<(Piece, Piece, u32)> {
    let bytes = record.bytes.as_bytes();
    let rows = record.rows();
    let row_bytes = bytes.len().checked_div(rows)?;
    let keys = record.keys.as_ref().map(|keys| {
        let keys = keys.as_bytes();
        bytemuck::try_cast_slice(keys).map_or_else(
            |_| bytemuck::pod_collect_to_vec(keys).into(),
            std::borrow::Cow::Borrowed,
        )
    });
    let unique = Unique::of_rows(bytes, row_bytes, keys.as_deref())?;
    let distinct = unique.first_rows.len();
    let mut table = Buffer::zeroed(record.dtype, distinct * row_bytes);
    unique.copy_table(bytes, row_bytes, table.as_mut_bytes());
    let mut shape = record.shape.clone();
    if let Some(rows) = shape.first_mut() {
        *rows = distinct;
    }
    let part = |bytes, dtype, shape: Vec<usize>| {
        let record = Record::new(bytes, dtype, shape, record.label)
            .with_placement(record.placement)
            .with_precision(record.precision);
        Piece {
            record,
            digest: None,
            origin: Origin::Layer,
        }
    };
    let table = part(table.into_shared(), record.dtype, shape);
    let index_shape = vec![unique.index.len()];
    let index = part(Arc::new(unique.index), DType::U8, index_shape);
    Some((table, index, unique.bits))
}

struct Parts {
    table: Box<dyn Held>,
    index: Box<dyn Held>,
    bits: u32,
    row_bytes: usize,
    len: usize,
    dtype: DType,
    label: &'static str,
    meter: Arc<Meter>,
    _charges: [Charge; 2],
}

impl Layer for Uniquify {
    fn save(&self, piece: Piece) -> Result<Box<dyn Held>, StoreError> {
        self.meter.saved();
        let Some((table, index, bits)) = self.meter.packing(|| take_apart(&piece.record)) else {
            return self.below.save(piece);
        };
        self.meter.hit();
        let len = piece.bytes().len();
        let row_bytes = len / piece.record.rows().max(1);
        let Record { dtype, label, .. } = piece.record;
        drop(piece);
        let kept = table.bytes().len() + index.bytes().len();
        let _charges = [
            self.meter.charge(Side::Logical, len),
            self.meter.charge(Side::Kept, kept),
        ];
        let (table, index) = (self.below.save(table)?, self.below.save(index)?);
        Ok(Box::new(Parts {
            table,
            index,
            bits,
            row_bytes,
            len,
            dtype,
            label,
            meter: self.meter.clone(),
            _charges,
        }))
    }

    fn quote(&self, piece: Piece) -> Result<usize, StoreError> {
        match take_apart(&piece.record) {
            Some((table, index, _)) => Ok(self.below.quote(table)? + self.below.quote(index)?),
            None => self.below.quote(piece),
        }
    }

    fn report(&self, report: &mut Report) {
        report.layers.push(self.meter.report());
        self.below.report(report);
    }
}

impl Held for Parts {
    fn fetch(&self) -> Result<Arc<dyn SharedBytes>, StoreError> {
        let (table, index) = (self.table.fetch()?, self.index.fetch()?);
        self.meter.unpacking(|| {
            let mut rows = Buffer::zeroed(self.dtype, self.len);
            let out = rows.as_mut_bytes();
            expand(table.as_bytes(), self.row_bytes, index.as_bytes(), self.bits, out).map_err(|error| {
                StoreError::Codec {
                    label: self.label,
                    codec: NAME,
                    doing: "expand",
                    reason: error.to_string(),
                }
            })?;
            Ok(rows.into_shared())
        })
    }

    fn kept_bytes(&self) -> usize {
        self.table.kept_bytes() + self.index.kept_bytes()
    }

    fn warm(&self) {
        self.table.warm();
        self.index.warm();
    }

    fn gathers(&self) -> bool {
        self.table.gathers() || self.index.gathers()
    }
}
