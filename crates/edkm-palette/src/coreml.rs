//! The palettes as buffers of a PyTorch state dict, for coremltools to keep when it converts the model to Core ML.
//!
//! coremltools 8 and later read buffers named `_COREML_/<parameter>/<field>` beside a dense parameter, find each weight in the
//! lookup table and store indices and table ("Compression info protocol", version 1, in the coremltools guide to conversion).
//! The dense parameter itself comes from [`PalettizedMatrix::dequantize`].

use std::borrow::Cow;

use safetensors::Dtype;

use crate::palette::write_f32;
use crate::{Entry, PaletteDType, PaletteError, PalettizedMatrix};

/// Numbers that coremltools gives to the kinds of compression.
const PALETTIZATION: i64 = 2;
const QUANTIZATION: i64 = 3;

/// Version of the protocol.
const PROTOCOL_VERSION: i64 = 1;

/// The axis of the columns, along which palette vectors lie.
const COLUMN_AXIS: i64 = 1;

/// The buffer `_COREML_/metadata_version`, once for a model.
pub fn coreml_version_entry() -> Entry<'static> {
    scalar("_COREML_/metadata_version".to_owned(), PROTOCOL_VERSION)
}

impl PalettizedMatrix {
    /// The buffers of this matrix, where `name` is the parameter's name in the state dict (`model.layers.0.mlp.up_proj.weight`).
    ///
    /// | buffer | dtype | shape | |
    /// |---|---|---|---|
    /// | `lut` | F32 | `[groups, 1, K, vector]` | the palettes |
    /// | `compression_type` | I64 | `[1]` or `[2]` | palettization, then quantization of an int8 palette |
    /// | `palettization_scale` | F32 | `[rows, 1]` | with row scales |
    /// | `vector_axis` | I64 | `[]` | 1, with vectors |
    /// | `quantization_n_bits`, `quantization_scale` | I64, F32 | `[]`, `[groups, 1, 1, 1]` | with int8 palettes |
    ///
    /// Core ML has no indices of 5 and 7 bits: the table is then filled up to 6 or 8 bits with copies of its first entry. Row scales
    /// and an int8 palette exclude each other there: with row scales the table stays in floats.
    ///
    /// # Errors
    /// [`PaletteError::CoreMlGroups`] when the last group is shorter than the others, which Core ML cannot express.
    pub fn coreml_entries(&self, name: &str) -> Result<Vec<Entry<'static>>, PaletteError> {
        let layout = &self.layout;
        if !layout.rows.is_multiple_of(layout.group_rows) {
            return Err(PaletteError::CoreMlGroups {
                rows: layout.rows,
                group_rows: layout.group_rows,
            }
            .in_tensor(name));
        }
        let (module, parameter) = match name.rsplit_once('.') {
            Some((module, parameter)) => (format!("{module}."), parameter),
            None => (String::new(), name),
        };
        let buffer = |field: &str| format!("{module}_COREML_/{parameter}/{field}");
        let floats = |field, shape, values: &[f32]| Entry {
            name: buffer(field),
            dtype: Dtype::F32,
            shape,
            bytes: Cow::Owned(write_f32(values)),
        };

        let vector = layout.spec.vector;
        let clusters = 1usize << coreml_bits(layout.spec.bits);
        let mut table = Vec::with_capacity(layout.groups * clusters * vector);
        for palette in self.palettes.values().chunks_exact(layout.spec.palette_len()) {
            table.extend_from_slice(palette);
            let filling = palette[..vector].iter().cycle();
            table.extend(filling.take((clusters - layout.spec.clusters()) * vector));
        }
        let mut entries = vec![floats("lut", vec![layout.groups, 1, clusters, vector], &table)];
        let mut compression = vec![PALETTIZATION];

        if vector > 1 {
            entries.push(scalar(buffer("vector_axis"), COLUMN_AXIS));
        }
        if let Some(scales) = self.row_scales() {
            entries.push(floats("palettization_scale", vec![layout.rows, 1], scales));
        } else if let (PaletteDType::I8, Some(scales)) = (layout.spec.palette_dtype, self.palettes.scales()) {
            compression.push(QUANTIZATION);
            entries.push(scalar(buffer("quantization_n_bits"), 8));
            // A palette of zeros has the scale 0, by which coremltools would divide.
            let scales: Vec<f32> = scales
                .iter()
                .map(|&scale| if scale == 0.0 { 1.0 } else { scale })
                .collect();
            entries.push(floats("quantization_scale", vec![layout.groups, 1, 1, 1], &scales));
        }
        entries.push(Entry {
            name: buffer("compression_type"),
            dtype: Dtype::I64,
            shape: vec![compression.len()],
            bytes: Cow::Owned(compression.iter().flat_map(|kind| kind.to_le_bytes()).collect()),
        });
        Ok(entries)
    }
}

/// The narrowest index of Core ML (1, 2, 3, 4, 6 or 8 bits) that holds one of `bits`.
fn coreml_bits(bits: u8) -> u8 {
    match bits {
        5 => 6,
        7 => 8,
        bits => bits,
    }
}

fn scalar(name: String, value: i64) -> Entry<'static> {
    Entry {
        name,
        dtype: Dtype::I64,
        shape: vec![],
        bytes: Cow::Owned(value.to_le_bytes().to_vec()),
    }
}
