//! The buffers that coremltools reads, by the protocol in its guide.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use edkm_palette::{coreml_version_entry, Entry, PaletteDType, PaletteError, PaletteSpec};
use safetensors::Dtype;

use crate::common::Parts;

fn by_name(entries: Vec<Entry<'static>>) -> BTreeMap<String, Entry<'static>> {
    entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect()
}

fn floats(entry: &Entry<'_>) -> Vec<f32> {
    assert_eq!(entry.dtype, Dtype::F32);
    entry
        .bytes
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect()
}

fn integers(entry: &Entry<'_>) -> Vec<i64> {
    assert_eq!(entry.dtype, Dtype::I64);
    entry
        .bytes
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| i64::from_le_bytes(bytes))
        .collect()
}

#[test]
fn grouped_palettes_with_row_scales() {
    let spec = PaletteSpec {
        group_rows: NonZeroUsize::new(4),
        vector: 2,
        ..PaletteSpec::new(3)
    };
    let parts = Parts::random(12, 8, spec, true, 1);
    let entries = by_name(
        parts
            .pack()
            .coreml_entries("model.layers.0.mlp.up_proj.weight")
            .unwrap(),
    );
    let buffer = |field: &str| &entries[&format!("model.layers.0.mlp.up_proj._COREML_/weight/{field}")];

    assert_eq!(entries.len(), 4);
    assert_eq!(buffer("lut").shape, [3, 1, 8, 2]);
    assert_eq!(floats(buffer("lut")), parts.palettes);
    assert_eq!(buffer("palettization_scale").shape, [12, 1]);
    assert_eq!(Some(floats(buffer("palettization_scale"))), parts.row_scales);
    assert_eq!(
        (buffer("vector_axis").shape.len(), integers(buffer("vector_axis"))),
        (0, vec![1])
    );
    assert_eq!(
        (
            buffer("compression_type").shape.clone(),
            integers(buffer("compression_type"))
        ),
        (vec![1], vec![2])
    );
}

#[test]
fn int8_palettes_are_quantized_tables() {
    let spec = PaletteSpec {
        palette_dtype: PaletteDType::I8,
        ..PaletteSpec::new(2)
    };
    let matrix = Parts::random(4, 4, spec, false, 1).pack();
    let entries = by_name(matrix.coreml_entries("weight").unwrap());
    assert_eq!(integers(&entries["_COREML_/weight/compression_type"]), [2, 3]);
    assert_eq!(integers(&entries["_COREML_/weight/quantization_n_bits"]), [8]);
    let scale = &entries["_COREML_/weight/quantization_scale"];
    assert_eq!(scale.shape, [1, 1, 1, 1]);
    // The table is whole multiples of the scale.
    for value in floats(&entries["_COREML_/weight/lut"]) {
        let steps = value / floats(scale)[0];
        assert!((steps - steps.round()).abs() <= 1e-4, "{value}");
    }
}

#[test]
fn widths_that_core_ml_lacks_are_filled_up() {
    for (bits, clusters) in [(5, 64), (7, 256)] {
        let parts = Parts::random(4, 4, PaletteSpec::new(bits), false, 1);
        let entries = by_name(parts.pack().coreml_entries("w").unwrap());
        let lut = &entries["_COREML_/w/lut"];
        assert_eq!(lut.shape, [1, 1, clusters, 1]);
        let (kept, filled) = (1 << bits, floats(lut));
        assert_eq!(filled[..kept], parts.palettes);
        assert!(filled[kept..].iter().all(|&value| value == parts.palettes[0]));
    }
}

#[test]
fn the_version_is_a_scalar_of_the_model() {
    let entry = coreml_version_entry();
    assert_eq!(
        (entry.name.as_str(), entry.shape.len()),
        ("_COREML_/metadata_version", 0)
    );
    assert_eq!(integers(&entry), [1]);
}

#[test]
fn a_short_last_group_is_refused() {
    let spec = PaletteSpec {
        group_rows: NonZeroUsize::new(5),
        ..PaletteSpec::new(3)
    };
    let error = Parts::random(12, 8, spec, false, 1)
        .pack()
        .coreml_entries("a.weight")
        .unwrap_err();
    let source = Box::new(PaletteError::CoreMlGroups {
        rows: 12,
        group_rows: 5,
    });
    assert_eq!(
        error,
        PaletteError::Tensor {
            name: "a.weight".to_owned(),
            source
        }
    );
}
