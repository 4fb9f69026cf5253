//! The palettes of a matrix in the dtype of the file, and their f32 values.

use half::{bf16, f16};

use crate::error::check_len;
use crate::layout::Layout;
use crate::{PaletteDType, PaletteError, PaletteSpec};

/// Largest magnitude of an int8 palette entry.
const I8_MAX: f32 = 127.0;

/// All palettes of a matrix.
#[derive(Clone, Debug)]
pub(crate) struct Palettes {
    /// `[groups, 2^bits, vector]`, exactly what the file's bytes stand for.
    values: Vec<f32>,
    /// `[groups]`, for int8 palettes only.
    scales: Option<Vec<f32>>,
    dtype: PaletteDType,
}

impl Palettes {
    /// Rounds `[groups, 2^bits, vector]` values to the palette dtype.
    pub(crate) fn round(layout: &Layout, values: &[f32]) -> Result<Self, PaletteError> {
        check_len("palettes", layout.palette_len(), values.len())?;
        let (values, scales) = round(&layout.spec, values)?;
        Ok(Palettes {
            values,
            scales,
            dtype: layout.spec.palette_dtype,
        })
    }

    /// Reads little-endian bytes; their number, and that of the scales, match the layout.
    pub(crate) fn from_bytes(layout: &Layout, bytes: &[u8], scales: Option<Vec<f32>>) -> Result<Self, PaletteError> {
        let dtype = layout.spec.palette_dtype;
        let len = layout.spec.palette_len();
        let values: Vec<f32> = match dtype {
            PaletteDType::F32 => read_f32(bytes),
            PaletteDType::F16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| f16::from_le_bytes(b).to_f32())
                .collect(),
            PaletteDType::Bf16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| bf16::from_le_bytes(b).to_f32())
                .collect(),
            PaletteDType::I8 => {
                let scales = scales.as_deref().unwrap_or_default();
                check_len("palette_scale", layout.groups, scales.len())?;
                let is_usable = |scale: f32| scale >= 0.0 && (I8_MAX * scale).is_finite();
                if let Some(group) = scales.iter().position(|&scale| !is_usable(scale)) {
                    return Err(PaletteError::PaletteScale {
                        group,
                        value: scales[group],
                    });
                }
                bytes
                    .iter()
                    .enumerate()
                    .map(|(i, &b)| f32::from(b as i8) * scales[i / len])
                    .collect()
            }
        };
        check_len("palettes", layout.palette_len(), values.len())?;
        check_finite(len, &values)?;
        Ok(Palettes { values, scales, dtype })
    }

    /// `[groups, 2^bits, vector]` values.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    /// `[groups]` scales of int8 palettes.
    pub(crate) fn scales(&self) -> Option<&[f32]> {
        self.scales.as_deref()
    }

    /// Little-endian bytes in the palette dtype. Exact: values were rounded when the palettes were made.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self.dtype {
            PaletteDType::F32 => write_f32(&self.values),
            PaletteDType::F16 => self
                .values
                .iter()
                .flat_map(|&value| f16::from_f32(value).to_le_bytes())
                .collect(),
            PaletteDType::Bf16 => self
                .values
                .iter()
                .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
                .collect(),
            PaletteDType::I8 => {
                let scales = self.scales().unwrap_or_default();
                let len = self.values.len() / scales.len().max(1);
                let byte = |(i, &value): (usize, &f32)| to_i8(value, scales[i / len]) as u8;
                self.values.iter().enumerate().map(byte).collect()
            }
        }
    }

    /// Bytes in a file, scales counted.
    pub(crate) fn size_bytes(&self) -> usize {
        self.values.len() * self.dtype.size() + self.scales.as_ref().map_or(0, |scales| scales.len() * 4)
    }
}

impl PaletteSpec {
    /// Palettes `[palettes, 2^bits, vector]` with the numbers that a file with this type of palettes has in their place: what weights are assigned to
    /// that shall have the nearest entry there. Rounded twice they are the same but for a few units in the last place (int8).
    ///
    /// # Errors
    /// A spec out of range, numbers that do not fill whole palettes, that are not finite, or beyond the range of the type.
    pub fn rounded(&self, palettes: &[f32]) -> Result<Vec<f32>, PaletteError> {
        self.validate()?;
        let whole = palettes.len() / self.palette_len() * self.palette_len();
        check_len("palettes", whole, palettes.len())?;
        Ok(round(self, palettes)?.0)
    }
}

/// Whole palettes rounded to their dtype, and the scales of int8 ones.
fn round(spec: &PaletteSpec, values: &[f32]) -> Result<(Vec<f32>, Option<Vec<f32>>), PaletteError> {
    let (len, dtype) = (spec.palette_len(), spec.palette_dtype);
    check_finite(len, values)?;
    let mut scales = None;
    let rounded: Vec<f32> = match dtype {
        PaletteDType::F32 => values.to_vec(),
        PaletteDType::F16 => values.iter().map(|&value| f16::from_f32(value).to_f32()).collect(),
        PaletteDType::Bf16 => values.iter().map(|&value| bf16::from_f32(value).to_f32()).collect(),
        PaletteDType::I8 => {
            let group_scales: Vec<f32> = values.chunks_exact(len).map(i8_scale).collect();
            let rounded = values
                .chunks_exact(len)
                .zip(&group_scales)
                .flat_map(|(palette, &scale)| palette.iter().map(move |&value| f32::from(to_i8(value, scale)) * scale))
                .collect();
            scales = Some(group_scales);
            rounded
        }
    };
    match rounded.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(PaletteError::PaletteRange {
            group: at / len,
            entry: at % len,
            value: values[at],
            dtype,
        }),
        None => Ok((rounded, scales)),
    }
}

/// Little-endian bytes to f32.
pub(crate) fn read_f32(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// f32 to little-endian bytes.
pub(crate) fn write_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Largest magnitude / 127; a palette of zeros has scale 0.
fn i8_scale(palette: &[f32]) -> f32 {
    palette.iter().fold(0.0f32, |largest, value| largest.max(value.abs())) / I8_MAX
}

fn to_i8(value: f32, scale: f32) -> i8 {
    if scale == 0.0 {
        return 0;
    }
    // Within a few ulps of a whole number where the value came from a byte, so rounding restores that byte. Bytes of a file
    // may hold -128; `as` saturates.
    (value / scale).round() as i8
}

fn check_finite(len: usize, values: &[f32]) -> Result<(), PaletteError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(PaletteError::PaletteValue {
            group: at / len,
            entry: at % len,
            value: values[at],
        }),
        None => Ok(()),
    }
}
