//! What is handed to a store: bytes with the little that the layers need to know of them.

use std::sync::Arc;

use crate::{SharedBytes, StoreError, Uptake};

/// The element type of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// IEEE 16-bit float.
    F16,
    /// 16-bit float with the exponent of an `f32`.
    Bf16,
    /// 8-bit unsigned integer, or plain bytes.
    U8,
    /// 16-bit unsigned integer.
    U16,
    /// 32-bit unsigned integer.
    U32,
    /// 64-bit unsigned integer.
    U64,
    /// 8-bit signed integer.
    I8,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::F16 | Self::Bf16 | Self::U16 => 2,
            Self::F32 | Self::U32 | Self::I32 => 4,
            Self::F64 | Self::U64 | Self::I64 => 8,
        }
    }
}

/// Who holds this content: only this learner, or all learners alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Placement {
    /// Only this learner holds it; it is never sharded.
    #[default]
    Local,
    /// Every learner of the group saves the same bytes at the same point of its program, so each need keep only a part.
    Replicated,
}

/// How exactly a record is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// As the store is set up: exactly, unless it was built with `bf16_activations`.
    #[default]
    Unsaid,
    /// Exactly, in every store.
    Exact,
    /// `F32` records are kept as bf16 (round to nearest, ties to even) and come back as `f32`, each finite value within
    /// 2^-8 of itself, relatively, while it is a normal number and does not round to infinity. Other element types are
    /// kept exactly. Half of the bytes.
    Bf16,
}

impl Precision {
    /// This, or `default` if it is unsaid.
    #[must_use]
    pub fn or(self, default: Self) -> Self {
        match self {
            Self::Unsaid => default,
            said => said,
        }
    }
}

/// A tensor on its way into a store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Record {
    /// The elements, row-major and contiguous.
    pub bytes: Arc<dyn SharedBytes>,
    /// The type of an element.
    pub dtype: DType,
    /// Lengths of the axes, outermost first; a scalar has none.
    pub shape: Vec<usize>,
    /// Who holds this content.
    pub placement: Placement,
    /// A hint for uniquification: one `u16` for each row, where rows with equal keys are equal. A row is what one index of
    /// the first axis selects. It is checked, not trusted: rows that differ under one key are kept as they are.
    pub keys: Option<Arc<dyn SharedBytes>>,
    /// How exactly it is kept.
    pub precision: Precision,
    /// What becomes of it when it is fetched ahead.
    pub uptake: Option<Arc<dyn Uptake>>,
    /// What it is, for errors and reports.
    pub label: &'static str,
}

impl Record {
    /// A local record that is kept as the store is set up.
    pub fn new(bytes: Arc<dyn SharedBytes>, dtype: DType, shape: impl Into<Vec<usize>>, label: &'static str) -> Self {
        let shape = shape.into();
        Self {
            bytes,
            dtype,
            shape,
            placement: Placement::Local,
            keys: None,
            precision: Precision::Unsaid,
            uptake: None,
            label,
        }
    }

    /// The same record with another placement.
    pub fn with_placement(self, placement: Placement) -> Self {
        Self { placement, ..self }
    }

    /// The same record with one `u16` key for each row (see [`Record::keys`]).
    pub fn with_keys(self, keys: Arc<dyn SharedBytes>) -> Self {
        Self {
            keys: Some(keys),
            ..self
        }
    }

    /// The same record with its precision said explicitly.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The same record, taken up by `uptake` when it is fetched ahead.
    pub fn with_uptake(self, uptake: Option<Arc<dyn Uptake>>) -> Self {
        Self { uptake, ..self }
    }

    /// Number of bytes of the elements.
    pub fn len_bytes(&self) -> usize {
        self.bytes.byte_len()
    }

    /// Waits until the bytes have arrived.
    pub(crate) fn arrive(&self) -> Result<(), StoreError> {
        self.bytes.arrive().map_err(|reason| StoreError::Arrival {
            label: self.label,
            reason,
        })
    }

    /// Refuses a record whose bytes or keys do not fit its shape.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let got = self.len_bytes();
        let expected = self
            .shape
            .iter()
            .try_fold(self.dtype.size(), |bytes, &axis| bytes.checked_mul(axis));
        if expected != Some(got) {
            let Self {
                dtype, shape, label, ..
            } = self;
            return Err(StoreError::Length {
                label,
                dtype: *dtype,
                shape: shape.clone(),
                got,
            });
        }
        if let Some(keys) = &self.keys {
            let (rows, got) = (self.rows(), keys.as_bytes().len());
            if rows.checked_mul(2) != Some(got) {
                return Err(StoreError::Keys {
                    label: self.label,
                    rows,
                    got,
                });
            }
        }
        Ok(())
    }

    /// Length of the first axis; one for a scalar.
    pub(crate) fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }
}
