//! The floating-point types in which weights are stored.

use std::{borrow::Cow, cell::RefCell, fmt, str::FromStr};

use half::{bf16, f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;
use safetensors::Dtype;

use super::convert::{first_not_finite, CHUNK};
use crate::LlamaError;

/// A floating-point type of stored weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FloatDtype {
    /// IEEE single precision.
    #[default]
    F32,
    /// IEEE half precision: 11 significant bits, up to 65504.
    F16,
    /// bfloat16: 8 significant bits, the range of f32.
    Bf16,
}

impl FloatDtype {
    /// The type in safetensors files.
    pub fn safetensors(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }

    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Gives `values` the precision of the type: to nearest, ties to even, as they are written. What is beyond its range becomes infinite.
    pub fn round(self, values: &mut [f32]) {
        match self {
            Self::F32 => (),
            Self::F16 => round_half::<f16>(values),
            Self::Bf16 => round_half::<bf16>(values),
        }
    }

    /// The name of the type in `config.json` (`torch_dtype`).
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }
}

impl fmt::Display for FloatDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

/// A name that is no floating-point type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a type of weights; choose f32, f16 or bf16")]
pub struct UnknownFloatDtype(String);

impl FromStr for FloatDtype {
    type Err = UnknownFloatDtype;

    fn from_str(name: &str) -> Result<Self, UnknownFloatDtype> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            other => Err(UnknownFloatDtype(other.to_owned())),
        }
    }
}

/// The little-endian bytes of `values`, rounded to nearest, ties to even. Borrowed where they are already there.
///
/// # Errors
/// [`LlamaError::Unstorable`] names the first value that is not finite, or not in the type.
pub(super) fn encode<'a>(name: &str, values: &'a [f32], dtype: FloatDtype) -> Result<Cow<'a, [u8]>, LlamaError> {
    let bytes = match dtype {
        FloatDtype::F32 if cfg!(target_endian = "little") => {
            let bad = position_by_chunk(values, first_not_finite);
            bad.map_or(Ok(Cow::Borrowed(bytemuck::cast_slice(values))), Err)
        }
        FloatDtype::F32 => {
            let bad = position_by_chunk(values, first_not_finite);
            bad.map_or_else(
                || Ok(Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())),
                Err,
            )
        }
        FloatDtype::F16 => encode_half::<f16>(values, |half| half.is_finite()).map(Cow::Owned),
        FloatDtype::Bf16 => encode_half::<bf16>(values, |half| half.is_finite()).map(Cow::Owned),
    };
    bytes.map_err(|index| LlamaError::Unstorable {
        name: name.to_owned(),
        index,
        value: values[index],
        dtype,
    })
}

/// The first index that `find` has in any chunk.
fn position_by_chunk(values: &[f32], find: fn(&[f32]) -> Option<usize>) -> Option<usize> {
    let chunks = values.par_chunks(CHUNK).enumerate();
    chunks
        .filter_map(|(i, chunk)| find(chunk).map(|at| i * CHUNK + at))
        .min()
}

/// There and back.
fn round_half<H: bytemuck::Pod>(values: &mut [f32])
where
    [H]: HalfFloatSliceExt,
{
    values.par_chunks_mut(CHUNK).for_each(|chunk| {
        let mut halves = vec![H::zeroed(); chunk.len()];
        halves.convert_from_f32_slice(chunk);
        halves.convert_to_f32_slice(chunk);
    });
}

/// Converts, or tells the index of the first value for which that does not go.
fn encode_half<H: bytemuck::Pod>(values: &[f32], is_finite: fn(&H) -> bool) -> Result<Vec<u8>, usize>
where
    [H]: HalfFloatSliceExt,
{
    thread_local! {
        static HALVES: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
    }
    let mut bytes = vec![0; values.len() * 2];
    let chunks = values
        .par_chunks(CHUNK)
        .zip(bytes.par_chunks_mut(2 * CHUNK))
        .enumerate();
    let bad = chunks.filter_map(|(i, (chunk, out))| {
        HALVES.with_borrow_mut(|halves| {
            halves.resize(CHUNK, 0);
            let halves = &mut halves[..chunk.len()];
            bytemuck::cast_slice_mut::<u16, H>(halves).convert_from_f32_slice(chunk);
            let bad = bytemuck::cast_slice::<u16, H>(halves)
                .iter()
                .position(|half| !is_finite(half));
            if cfg!(target_endian = "big") {
                halves.iter_mut().for_each(|half| *half = half.to_le());
            }
            out.copy_from_slice(bytemuck::cast_slice(halves));
            bad.map(|at| i * CHUNK + at)
        })
    });
    match bad.min() {
        None => Ok(bytes),
        Some(index) => Err(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_numbers_are_those_that_are_written() {
        let values: Vec<f32> = (0..3 * CHUNK / 2).map(|i| (i as f32 * 0.37).sin() * 50.0).collect();
        let decoded = |dtype| {
            let bytes = encode("w", &values, dtype).unwrap();
            let halves = bytes.chunks_exact(2).map(|half| u16::from_le_bytes([half[0], half[1]]));
            let number = |bits| match dtype {
                FloatDtype::F16 => f16::from_bits(bits).to_f32(),
                _ => bf16::from_bits(bits).to_f32(),
            };
            halves.map(number).collect::<Vec<f32>>()
        };
        for dtype in [FloatDtype::F16, FloatDtype::Bf16] {
            let mut rounded = values.clone();
            dtype.round(&mut rounded);
            assert!(rounded != values && rounded == decoded(dtype), "{dtype}");
        }
        let mut same = values.clone();
        FloatDtype::F32.round(&mut same);
        assert_eq!(same, values);
        let mut beyond = [1e30];
        FloatDtype::F16.round(&mut beyond);
        assert_eq!(beyond, [f32::INFINITY]);
    }
}
