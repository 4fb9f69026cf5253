//! The factors of the rows, and the type that a file holds them in.

use half::bf16;
use safetensors::Dtype;

use crate::palette::{read_f32, write_f32};

/// A factor for each row.
#[derive(Clone, Debug)]
pub(crate) struct RowScales {
    values: Vec<f32>,
    dtype: RowScaleDType,
}

/// Type of the factors in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowScaleDType {
    F32,
    Bf16,
}

impl RowScales {
    /// In bf16 if that holds every factor exactly, else in f32.
    pub(crate) fn new(values: &[f32]) -> Self {
        let is_bf16 = |value: &f32| value.to_bits() & 0xffff == 0;
        let dtype = match values.iter().all(is_bf16) {
            true => RowScaleDType::Bf16,
            false => RowScaleDType::F32,
        };
        RowScales {
            values: values.to_vec(),
            dtype,
        }
    }

    /// Reads little-endian bytes of a dtype that [`Self::is_dtype`] knows.
    pub(crate) fn from_bytes(dtype: Dtype, bytes: &[u8]) -> Self {
        match dtype {
            Dtype::BF16 => RowScales {
                values: bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&b| bf16::from_le_bytes(b).to_f32())
                    .collect(),
                dtype: RowScaleDType::Bf16,
            },
            _ => RowScales {
                values: read_f32(bytes),
                dtype: RowScaleDType::F32,
            },
        }
    }

    /// Whether a file may hold factors in this dtype.
    pub(crate) fn is_dtype(dtype: Dtype) -> bool {
        matches!(dtype, Dtype::F32 | Dtype::BF16)
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    /// The dtype of the entry in a file.
    pub(crate) fn safetensors(&self) -> Dtype {
        match self.dtype {
            RowScaleDType::F32 => Dtype::F32,
            RowScaleDType::Bf16 => Dtype::BF16,
        }
    }

    /// Little-endian bytes. Exact.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self.dtype {
            RowScaleDType::F32 => write_f32(&self.values),
            RowScaleDType::Bf16 => self
                .values
                .iter()
                .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
                .collect(),
        }
    }

    /// Bytes in a file.
    pub(crate) fn size_bytes(&self) -> usize {
        let size = match self.dtype {
            RowScaleDType::F32 => 4,
            RowScaleDType::Bf16 => 2,
        };
        self.values.len() * size
    }
}
