//! Entries of a safetensors file: what is written is read, and what is wrong is refused.

use std::collections::HashMap;
use std::sync::Arc;

use crate::common::Parts;
use edkm_palette::{
    read, EntryBytes, EntryView, FormatMetadata, PaletteDType, PaletteError, PaletteSpec, PalettizedMatrix, SharedBytes,
};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};

const NAME: &str = "model.layers.0.mlp.up_proj.weight";

/// The bytes of a file that holds the matrices.
pub(crate) fn file(matrices: &[(&str, &PalettizedMatrix)]) -> Vec<u8> {
    let mut metadata = FormatMetadata::new();
    matrices.iter().for_each(|(name, matrix)| metadata.insert(name, matrix));
    let entries: Vec<_> = matrices
        .iter()
        .flat_map(|(name, matrix)| matrix.to_entries(name))
        .collect();
    let views = entries.iter().map(|entry| (entry.name.as_str(), entry));
    safetensors::serialize(views, Some(metadata.to_map().unwrap())).unwrap()
}

fn metadata(file: &[u8]) -> FormatMetadata {
    let (_, header) = SafeTensors::read_metadata(file).unwrap();
    FormatMetadata::from_map(header.metadata().as_ref().unwrap()).unwrap()
}

/// Reads from a mapping of the whole file, `shift` bytes off alignment.
fn read_shared(file: &[u8], name: &str, shift: usize) -> PalettizedMatrix {
    // A vector of bytes may lie anywhere: leave room, and find where the wanted misalignment begins.
    let mut owner = vec![0; file.len() + 16];
    let start = owner.as_ptr().align_offset(8) + shift;
    owner[start..start + file.len()].copy_from_slice(file);
    let owner = Arc::new(owner);
    let tensors = SafeTensors::deserialize(file).unwrap();
    let base = file.as_ptr() as usize;
    read(name, &metadata(file), |entry| {
        let view = tensors.tensor(entry).ok()?;
        let offset = view.data().as_ptr() as usize - base + start;
        let bytes = SharedBytes::new(owner.clone(), offset..offset + view.data().len()).unwrap();
        Some(EntryView {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: EntryBytes::Shared(bytes),
        })
    })
    .unwrap()
}

proptest! {
    #[test]
    fn a_file_gives_the_matrix_back(parts in crate::common::parts()) {
        let matrix = parts.pack();
        let other = Parts::random(3, 8, PaletteSpec::new(1), false, 7).pack();
        let file = file(&[(NAME, &matrix), ("other", &other)]);
        let metadata = metadata(&file);
        prop_assert_eq!(metadata.tensors().map(|(name, _)| name).collect::<Vec<_>>(), [NAME, "other"]);
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let back = read(NAME, &metadata, |entry| {
            let view = tensors.tensor(entry).ok()?;
            Some(EntryView { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: EntryBytes::Copied(view.data()) })
        }).unwrap();
        prop_assert_eq!(back.indices(), parts.indices);
        prop_assert_eq!(back.dequantize(), matrix.dequantize());
        prop_assert_eq!(back.spec(), matrix.spec());
        prop_assert_eq!(back.row_scales(), matrix.row_scales());
        prop_assert_eq!(back.size_bytes(), matrix.size_bytes());
        // Written again it is the same file: nothing is rounded twice.
        prop_assert_eq!(self::file(&[(NAME, &back), ("other", &other)]), file);
    }
}

#[test]
fn the_file_holds_as_many_bytes_as_the_matrix_says() {
    let parts = Parts::random(
        40,
        64,
        PaletteSpec {
            palette_dtype: PaletteDType::I8,
            ..PaletteSpec::new(5)
        },
        true,
        3,
    );
    let matrix = parts.pack();
    let bytes: usize = matrix.to_entries(NAME).iter().map(|entry| entry.bytes.len()).sum();
    assert_eq!(bytes, matrix.size_bytes());
}

#[test]
fn a_mapping_is_read_in_place_where_it_is_aligned() {
    let parts = Parts::random(50, 96, PaletteSpec::new(3), false, 4);
    let matrix = parts.pack();
    let file = file(&[(NAME, &matrix)]);
    let x = crate::common::SplitMix(1).vector(96);
    let product = |matrix: &PalettizedMatrix| {
        let mut y = vec![0.0; 50];
        matrix.matvec(&x, &mut y).unwrap();
        y
    };
    for shift in 0..8 {
        let read = read_shared(&file, NAME, shift);
        assert_eq!(
            read.is_mapped(),
            shift % 4 == 0 && cfg!(target_endian = "little"),
            "shift {shift}"
        );
        assert_eq!(read.indices(), parts.indices);
        assert_eq!(product(&read), product(&matrix));
    }
}

#[test]
fn ranges_outside_a_mapping_are_refused() {
    let owner = Arc::new(vec![0u8; 10]);
    assert!(SharedBytes::new(owner.clone(), 2..10).is_ok());
    let error = SharedBytes::new(owner, 2..11).unwrap_err();
    assert_eq!(
        error,
        PaletteError::Mapping {
            start: 2,
            end: 11,
            len: 10
        }
    );
}

#[test]
fn factors_of_rows_take_two_bytes_where_those_hold_them() {
    for (scales, dtype, bytes) in [([1.5, 0.25], Dtype::BF16, 2), ([1.5, 0.3], Dtype::F32, 4)] {
        let matrix = PalettizedMatrix::pack(2, 1, PaletteSpec::new(1), &[0.5, 2.0], &[0, 1], Some(&scales)).unwrap();
        let entries = matrix.to_entries("w");
        let entry = entries.iter().find(|entry| entry.name == "w.scale").unwrap();
        assert_eq!((entry.dtype, entry.bytes.len()), (dtype, 2 * bytes));
        assert_eq!(matrix.dequantize(), [0.5 * scales[0], 2.0 * scales[1]]);
        let without = PalettizedMatrix::pack(2, 1, PaletteSpec::new(1), &[0.5, 2.0], &[0, 1], None).unwrap();
        assert_eq!(matrix.size_bytes(), without.size_bytes() + 2 * bytes);
    }
}

/// Entries of a small int8 matrix with row scales, for damaging.
struct Damaged {
    metadata: FormatMetadata,
    entries: HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Damaged {
    fn new() -> Self {
        let spec = PaletteSpec {
            palette_dtype: PaletteDType::I8,
            ..PaletteSpec::new(2)
        };
        let matrix = Parts::random(5, 12, spec, true, 2).pack();
        let mut metadata = FormatMetadata::new();
        metadata.insert(NAME, &matrix);
        let entries = matrix
            .to_entries(NAME)
            .into_iter()
            .map(|e| (e.name, (e.dtype, e.shape, e.bytes.into_owned())));
        Damaged {
            metadata,
            entries: entries.collect(),
        }
    }

    fn entry(&mut self, suffix: &str) -> &mut (Dtype, Vec<usize>, Vec<u8>) {
        self.entries.get_mut(&format!("{NAME}{suffix}")).unwrap()
    }

    /// The error without the tensor's name, after checking that the message has it.
    fn error(&self) -> PaletteError {
        let lookup = |name: &str| {
            let (dtype, shape, bytes) = self.entries.get(name)?;
            Some(EntryView {
                dtype: *dtype,
                shape: shape.clone(),
                bytes: EntryBytes::Copied(bytes),
            })
        };
        let error = read(NAME, &self.metadata, lookup).unwrap_err();
        assert!(error.to_string().contains(NAME), "{error}");
        match error {
            PaletteError::Tensor { source, .. } => *source,
            other => panic!("{other} has no name"),
        }
    }
}

#[test]
fn damaged_entries_are_refused() {
    for suffix in [".indices", ".palette", ".palette_scale", ".scale"] {
        let entry = format!("{NAME}{suffix}");

        let mut missing = Damaged::new();
        missing.entries.remove(&entry);
        assert_eq!(missing.error(), PaletteError::Missing { entry: entry.clone() });

        let mut other_dtype = Damaged::new();
        let dtype = std::mem::replace(&mut other_dtype.entry(suffix).0, Dtype::F64);
        let expected = PaletteError::Dtype {
            entry: entry.clone(),
            expected: dtype,
            got: Dtype::F64,
        };
        assert_eq!(other_dtype.error(), expected);

        let mut other_shape = Damaged::new();
        other_shape.entry(suffix).1.push(1);
        assert!(matches!(other_shape.error(), PaletteError::Shape { entry: e, .. } if e == entry));

        let mut short = Damaged::new();
        let bytes = &mut short.entry(suffix).2;
        let expected = bytes.len();
        bytes.pop();
        assert_eq!(
            short.error(),
            PaletteError::Bytes {
                entry,
                expected,
                got: expected - 1
            }
        );
    }

    for scale in [f32::NAN, f32::INFINITY, -1.0, f32::MAX] {
        let mut damaged = Damaged::new();
        damaged.entry(".palette_scale").2 = scale.to_le_bytes().to_vec();
        assert!(
            matches!(damaged.error(), PaletteError::PaletteScale { group: 0, .. }),
            "{scale}"
        );
    }
    let mut damaged = Damaged::new();
    damaged.entry(".scale").2[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(matches!(damaged.error(), PaletteError::RowScale { row: 2, .. }));

    let mut unlisted = Damaged::new();
    unlisted.metadata = FormatMetadata::new();
    assert_eq!(unlisted.error(), PaletteError::Unlisted);
}

#[test]
fn the_largest_numbers_come_back_from_an_int8_palette() {
    let spec = PaletteSpec {
        palette_dtype: PaletteDType::I8,
        ..PaletteSpec::new(1)
    };
    // 128 times the scale of these would be infinite, and no byte that is written asks for it
    let matrix = PalettizedMatrix::pack(1, 2, spec, &[3.4e38, -3.4e38], &[0, 1], None).unwrap();
    let back = read_shared(&file(&[(NAME, &matrix)]), NAME, 0);
    assert_eq!(back.dequantize(), matrix.dequantize());
}

#[test]
fn palettes_that_are_not_finite_are_refused() {
    for dtype in [PaletteDType::F32, PaletteDType::F16, PaletteDType::Bf16] {
        let mut damaged = Damaged::new();
        let matrix = Parts::random(
            5,
            12,
            PaletteSpec {
                palette_dtype: dtype,
                ..PaletteSpec::new(2)
            },
            false,
            1,
        )
        .pack();
        damaged.metadata.insert(NAME, &matrix);
        let size = dtype.size();
        *damaged.entry(".palette") = (dtype.safetensors(), vec![1, 4, 1], vec![0; 4 * size]);
        // All ones: NaN in each of the formats.
        damaged.entry(".palette").2[2 * size..3 * size].fill(0xff);
        assert!(
            matches!(damaged.error(), PaletteError::PaletteValue { group: 0, entry: 2, .. }),
            "{dtype}"
        );
    }
}

#[test]
fn metadata_is_checked() {
    let parse = |json: &str| FormatMetadata::from_map(&HashMap::from([("edkm".to_owned(), json.to_owned())]));
    assert_eq!(
        FormatMetadata::from_map(&HashMap::new()),
        Err(PaletteError::NotPalettized { key: "edkm" })
    );
    assert!(matches!(parse("{"), Err(PaletteError::Metadata { .. })));
    assert!(matches!(parse("{}"), Err(PaletteError::Metadata { .. })));
    assert!(matches!(parse(r#"{"version":1}"#), Err(PaletteError::Metadata { .. })));
    assert_eq!(
        parse(r#"{"version":2,"tensors":[]}"#),
        Err(PaletteError::Version {
            version: "2".to_owned(),
            supported: 1
        })
    );
    assert!(parse(r#"{"version":1,"tensors":{}}"#).is_ok());

    let tensor = |shape: &str, spec: &str| {
        parse(&format!(
            r#"{{"version":1,"tensors":{{"w":{{"shape":{shape},"spec":{spec},"scale":"none"}}}}}}"#
        ))
    };
    let spec =
        |bits: &str, group: &str| format!(r#"{{"bits":{bits},"group_rows":{group},"vector":1,"palette_dtype":"f32"}}"#);
    let good = spec("3", "null");
    assert!(tensor("[2,3]", &good).is_ok());
    for (shape, spec) in [
        ("[2]", &good),
        ("[2,-3]", &good),
        ("[2,3]", &spec("256", "null")),
        ("[2,3]", &spec("3", "0")),
        ("[2,3]", &good.replace("f32", "f33")),
    ] {
        assert!(
            matches!(tensor(shape, spec), Err(PaletteError::Metadata { .. })),
            "{shape} {spec}"
        );
    }

    // Sizes that parse but mean nothing are refused before anything is looked up or allocated.
    let read_error = |metadata: FormatMetadata| match read("w", &metadata, |_| panic!("looked up")).unwrap_err() {
        PaletteError::Tensor { name, source } => {
            assert_eq!(name, "w");
            *source
        }
        other => panic!("{other}"),
    };
    assert_eq!(
        read_error(tensor("[2,3]", &spec("9", "null")).unwrap()),
        PaletteError::Bits { bits: 9 }
    );
    assert_eq!(
        read_error(tensor("[0,3]", &good).unwrap()),
        PaletteError::Empty { rows: 0, cols: 3 }
    );
    let huge = tensor("[9223372036854775807,9223372036854775807]", &good).unwrap();
    assert!(matches!(read_error(huge), PaletteError::TooLarge { .. }));
}

#[test]
fn the_same_matrices_make_the_same_file() {
    let matrices: Vec<_> = (0..20)
        .map(|seed| Parts::random(9, 16, PaletteSpec::new(3), false, seed).pack())
        .collect();
    let names: Vec<_> = (0..20).map(|i| format!("w{i}")).collect();
    let forward: Vec<_> = names.iter().map(String::as_str).zip(&matrices).collect();
    let backward: Vec<_> = forward.iter().rev().copied().collect();
    assert_eq!(file(&forward), file(&backward));
}
