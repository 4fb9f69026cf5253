//! Reads a palettized matrix from the entries of a file. Nothing in the file is trusted.

use safetensors::Dtype;

use crate::entries::suffix;
use crate::layout::{Layout, TILE_ROWS};
use crate::metadata::{FormatMetadata, ScaleKind};
use crate::palette::{read_f32, Palettes};
use crate::row_scales::RowScales;
use crate::words::Words;
use crate::{PaletteDType, PaletteError, PalettizedMatrix, SharedBytes};

/// The bytes of an entry.
#[derive(Debug, Clone)]
pub enum EntryBytes<'a> {
    /// Bytes that are copied.
    Copied(&'a [u8]),
    /// Bytes of a shared owner, such as a memory map; the packed words are read in place.
    Shared(SharedBytes),
}

/// An entry of a file, as a reader of the file found it.
#[derive(Debug, Clone)]
pub struct EntryView<'a> {
    /// Type of its numbers.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers, little-endian.
    pub bytes: EntryBytes<'a>,
}

impl EntryBytes<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            EntryBytes::Copied(bytes) => bytes,
            EntryBytes::Shared(shared) => shared.as_slice(),
        }
    }
}

/// Reads the palettized tensor `name`. `lookup` finds an entry of the file by its full name.
///
/// The packed words are borrowed where [`EntryBytes::Shared`] gives them at an address that is a multiple of 4 and the machine
/// is little-endian, and copied elsewhere. Memory besides: the palettes, about `groups * vector * 2^bits * 8` bytes.
///
/// # Errors
/// [`PaletteError::Tensor`] with the tensor's name and what is wrong: not listed in the metadata, a spec or shape out of range,
/// an entry that is missing or has the wrong dtype, shape or length, palettes or scales that are not finite.
pub fn read<'a>(
    name: &str,
    metadata: &FormatMetadata,
    lookup: impl Fn(&str) -> Option<EntryView<'a>>,
) -> Result<PalettizedMatrix, PaletteError> {
    read_tensor(name, metadata, &lookup).map_err(|error| error.in_tensor(name))
}

fn read_tensor<'a>(
    name: &str,
    metadata: &FormatMetadata,
    lookup: &dyn Fn(&str) -> Option<EntryView<'a>>,
) -> Result<PalettizedMatrix, PaletteError> {
    let info = metadata.get(name).ok_or(PaletteError::Unlisted)?;
    let [rows, cols] = info.shape;
    let spec = info.spec;
    let layout = Layout::new(rows, cols, spec)?;
    let entry = |suffix, dtype, shape| find(&format!("{name}{suffix}"), dtype, shape, lookup);
    let f32_entry = |suffix, len| Ok(read_f32(entry(suffix, Dtype::F32, vec![len])?.as_slice()));

    let words = entry(
        suffix::INDICES,
        Dtype::U32,
        vec![layout.tiles, layout.words_per_row, TILE_ROWS],
    )?;
    let palette_shape = vec![layout.groups, spec.clusters(), spec.vector];
    let palette = entry(suffix::PALETTE, spec.palette_dtype.safetensors(), palette_shape)?;
    let palette_scales = match spec.palette_dtype {
        PaletteDType::I8 => Some(f32_entry(suffix::PALETTE_SCALE, layout.groups)?),
        _ => None,
    };
    let row_scales = match info.scale {
        ScaleKind::Row => {
            // in either dtype; any other is refused as not being f32
            let found = lookup(&format!("{name}{}", suffix::ROW_SCALE)).map(|view| view.dtype);
            let dtype = found.filter(|&dtype| RowScales::is_dtype(dtype)).unwrap_or(Dtype::F32);
            let bytes = entry(suffix::ROW_SCALE, dtype, vec![rows])?;
            Some(RowScales::from_bytes(dtype, bytes.as_slice()))
        }
        ScaleKind::None => None,
    };

    let palettes = Palettes::from_bytes(&layout, palette.as_slice(), palette_scales)?;
    let words = match words {
        EntryBytes::Copied(bytes) => Words::from_bytes(bytes),
        EntryBytes::Shared(shared) => Words::from_shared(shared),
    };
    PalettizedMatrix::from_parts(layout, words, palettes, row_scales)
}

/// An entry whose dtype, shape and length are what they must be.
fn find<'a>(
    name: &str,
    dtype: Dtype,
    shape: Vec<usize>,
    lookup: &dyn Fn(&str) -> Option<EntryView<'a>>,
) -> Result<EntryBytes<'a>, PaletteError> {
    let entry = || name.to_owned();
    let view = lookup(name).ok_or_else(|| PaletteError::Missing { entry: entry() })?;
    if view.dtype != dtype {
        return Err(PaletteError::Dtype {
            entry: entry(),
            expected: dtype,
            got: view.dtype,
        });
    }
    if view.shape != shape {
        return Err(PaletteError::Shape {
            entry: entry(),
            expected: shape,
            got: view.shape,
        });
    }
    // The layout has checked that these products fit.
    let expected = shape.iter().product::<usize>() * (dtype.bitsize() / 8);
    let got = view.bytes.as_slice().len();
    if got != expected {
        return Err(PaletteError::Bytes {
            entry: entry(),
            expected,
            got,
        });
    }
    Ok(view.bytes)
}
