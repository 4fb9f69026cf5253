//! Packing and unpacking are inverse, and weights are what the definition says.

use crate::common::Parts;
use edkm_palette::{PaletteDType, PaletteError, PaletteSpec, PalettizedMatrix};
use proptest::prelude::*;

proptest! {
    #[test]
    fn unpacking_gives_the_indices_back(parts in crate::common::parts()) {
        prop_assert_eq!(parts.pack().indices(), parts.indices);
    }

    #[test]
    fn weights_are_palette_entries(parts in crate::common::parts()) {
        let matrix = parts.pack();
        let weights = parts.weights(&matrix);
        prop_assert_eq!(&matrix.dequantize(), &weights);

        let rows = parts.rows / 3..parts.rows;
        let mut some = vec![f32::NAN; rows.len() * parts.cols];
        matrix.dequantize_rows(rows.clone(), &mut some).unwrap();
        prop_assert_eq!(&some, &weights[rows.start * parts.cols..]);

        let mut last = vec![f32::NAN; parts.cols];
        matrix.row_into(parts.rows - 1, &mut last).unwrap();
        prop_assert_eq!(&last, &weights[(parts.rows - 1) * parts.cols..]);
    }

    #[test]
    fn palettes_are_rounded_within_their_dtype(parts in crate::common::parts()) {
        let matrix = parts.pack();
        let len = parts.spec.palette_len();
        for (group, palette) in parts.palettes.chunks_exact(len).enumerate() {
            let largest = palette.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            // Half a unit in the last place: of the value's significand, or of 1/127 of the largest for int8.
            let bound = |value: f32| match parts.spec.palette_dtype {
                PaletteDType::F32 => 0.0,
                // The second term is half the spacing of the subnormal numbers.
                PaletteDType::F16 => value.abs() / 2048.0 + 2f32.powi(-25),
                PaletteDType::Bf16 => value.abs() / 256.0,
                PaletteDType::I8 => largest / 253.0,
            };
            for (&given, &kept) in palette.iter().zip(matrix.palette(group)) {
                prop_assert!((given - kept).abs() <= bound(given), "{given} became {kept}");
            }
        }
    }

    /// All bits are accounted for: no more than one word a row, one tile at the end and one eighth for groups is padding.
    #[test]
    fn size_is_that_of_the_indices_and_palettes(parts in crate::common::parts()) {
        let matrix = parts.pack();
        let spec = parts.spec;
        let palettes = matrix.groups() * (spec.palette_len() * spec.palette_dtype.size()
            + if spec.palette_dtype == PaletteDType::I8 { 4 } else { 0 });
        let is_bf16 = |scale: &f32| scale.to_bits() & 0xffff == 0;
        let scales = parts.row_scales.as_ref().map_or(0, |scales| scales.len() * if scales.iter().all(is_bf16) { 2 } else { 4 });
        let row_bytes = (parts.cols / spec.vector * usize::from(spec.bits)).div_ceil(32) * 4;
        let packed = matrix.size_bytes() - palettes - scales;
        prop_assert!(packed >= row_bytes * parts.rows);
        prop_assert!(packed * 8 <= row_bytes * (parts.rows + 15) * 9);
        let bits = matrix.size_bytes() as f64 * 8.0 / (parts.rows * parts.cols) as f64;
        prop_assert!((matrix.bits_per_weight() - bits).abs() <= 1e-12 * bits);
    }
}

#[test]
fn zero_stays_zero_in_int8_palettes() {
    let spec = PaletteSpec {
        palette_dtype: PaletteDType::I8,
        ..PaletteSpec::new(2)
    };
    let matrix = PalettizedMatrix::pack(1, 4, spec, &[-0.3, 0.0, 0.1, 1.7], &[0, 1, 2, 3], None).unwrap();
    assert_eq!(matrix.palette(0)[1], 0.0);
    assert_eq!(matrix.palette(0)[3], 1.7);
    let zeros = PalettizedMatrix::pack(1, 4, spec, &[0.0; 4], &[0, 1, 2, 3], None).unwrap();
    assert_eq!(zeros.dequantize(), [0.0; 4]);
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let parts = Parts::random(5, 12, PaletteSpec::new(2), false, 1);
    let pack = |rows, cols, spec, palettes: &[f32], indices: &[u8], scales: Option<&[f32]>| {
        PalettizedMatrix::pack(rows, cols, spec, palettes, indices, scales).unwrap_err()
    };
    let (spec, palettes, indices) = (parts.spec, &parts.palettes[..], &parts.indices[..]);

    for bits in [0, 9, 255] {
        assert_eq!(
            pack(5, 12, PaletteSpec { bits, ..spec }, palettes, indices, None),
            PaletteError::Bits { bits }
        );
    }
    for vector in [0, 3, 16] {
        let spec = PaletteSpec { vector, ..spec };
        assert_eq!(
            pack(5, 12, spec, palettes, indices, None),
            PaletteError::Vector { vector }
        );
    }
    assert_eq!(
        pack(0, 12, spec, palettes, &[], None),
        PaletteError::Empty { rows: 0, cols: 12 }
    );
    assert_eq!(
        pack(5, 12, PaletteSpec { vector: 8, ..spec }, palettes, indices, None),
        PaletteError::Columns { cols: 12, vector: 8 }
    );
    assert!(matches!(
        pack(usize::MAX, 12, spec, palettes, indices, None),
        PaletteError::TooLarge { .. }
    ));
    assert_eq!(
        pack(5, 12, spec, palettes, &indices[1..], None),
        PaletteError::Length {
            what: "indices",
            expected: 60,
            got: 59
        }
    );
    assert_eq!(
        pack(5, 12, spec, &palettes[1..], indices, None),
        PaletteError::Length {
            what: "palettes",
            expected: 4,
            got: 3
        }
    );
    assert_eq!(
        pack(5, 12, spec, palettes, indices, Some(&[1.0; 4])),
        PaletteError::Length {
            what: "row_scales",
            expected: 5,
            got: 4
        }
    );
    let mut outside = indices.to_vec();
    outside[13] = 4;
    assert_eq!(
        pack(5, 12, spec, palettes, &outside, None),
        PaletteError::Index {
            row: 1,
            position: 1,
            index: 4,
            clusters: 4
        }
    );
    assert_eq!(
        pack(5, 12, spec, &[0.0, f32::INFINITY, 0.0, 0.0], indices, None),
        PaletteError::PaletteValue {
            group: 0,
            entry: 1,
            value: f32::INFINITY
        }
    );
    assert!(matches!(
        pack(5, 12, spec, &[0.0, 0.0, 0.0, f32::NAN], indices, None),
        PaletteError::PaletteValue { group: 0, entry: 3, .. }
    ));
    let half = PaletteSpec {
        palette_dtype: PaletteDType::F16,
        ..spec
    };
    assert!(matches!(
        pack(5, 12, half, &[0.0, 0.0, 1e6, 0.0], indices, None),
        PaletteError::PaletteRange {
            group: 0,
            entry: 2,
            value: 1e6,
            dtype: PaletteDType::F16,
        }
    ));
    assert!(matches!(
        pack(5, 12, spec, palettes, indices, Some(&[1.0, f32::NAN, 1.0, 1.0, 1.0])),
        PaletteError::RowScale { row: 1, .. }
    ));

    let matrix = parts.pack();
    let (x, mut y) = ([0.0; 12], [0.0; 5]);
    assert_eq!(
        matrix.matvec(&x[1..], &mut y),
        Err(PaletteError::Length {
            what: "x",
            expected: 12,
            got: 11
        })
    );
    assert_eq!(
        matrix.matvec(&x, &mut y[1..]),
        Err(PaletteError::Length {
            what: "y",
            expected: 5,
            got: 4
        })
    );
    assert_eq!(
        matrix.matmul(&x, 2, &mut y),
        Err(PaletteError::Length {
            what: "x",
            expected: 24,
            got: 12
        })
    );
    assert!(matches!(
        matrix.matmul(&x, usize::MAX, &mut y),
        Err(PaletteError::TooLarge { .. })
    ));
    assert_eq!(
        matrix.row_into(5, &mut [0.0; 12]),
        Err(PaletteError::Rows {
            start: 5,
            end: 6,
            rows: 5
        })
    );
    assert_eq!(
        matrix.row_into(0, &mut [0.0; 11]),
        Err(PaletteError::Length {
            what: "out",
            expected: 12,
            got: 11
        })
    );
    assert_eq!(
        matrix.dequantize_rows(4..6, &mut [0.0; 24]),
        Err(PaletteError::Rows {
            start: 4,
            end: 6,
            rows: 5
        })
    );
    for group in [1, usize::MAX / matrix.palette(0).len(), usize::MAX] {
        assert!(matrix.palette(group).is_empty(), "{group}");
    }
    assert_eq!(matrix.group_rows(usize::MAX), 5..5);
}
