//! Every instruction set gives the bits that the portable path gives.

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::isa::Isa;
use super::portable::Portable;
use crate::{PaletteDType, PaletteSpec, PalettizedMatrix};

fn hash(seed: u64, i: usize) -> u64 {
    let z = (seed.wrapping_add(i as u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32
}

fn floats(seed: u64, len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| hash(seed, i) as f32 / (1u64 << 31) as f32 - 1.0)
        .collect()
}

/// Shapes around the borders: runs of tiles, tiles of 16 rows, words of 32 bits, blocks of 256 columns.
fn shape() -> impl Strategy<Value = (usize, usize, PaletteSpec)> {
    let rows = prop_oneof![1usize..=40, 60usize..=200];
    let positions = prop_oneof![1usize..=70, 250usize..=300, 500usize..=600];
    let vector = prop_oneof![3 => Just(1usize), 1 => Just(2), 1 => Just(4), 1 => Just(8)];
    let group = prop_oneof![
        Just(None),
        (1usize..=40).prop_map(Some),
        // Whole registers of lanes of each instruction set, and whole tiles.
        prop::sample::select(vec![4usize, 8, 12, 16, 24, 64]).prop_map(Some),
    ];
    (rows, positions, 1u8..=8, vector, group).prop_map(|(rows, positions, bits, vector, group)| {
        let group_rows = group.and_then(NonZeroUsize::new);
        let spec = PaletteSpec {
            bits,
            group_rows,
            vector,
            palette_dtype: PaletteDType::F32,
        };
        (rows, positions * vector, spec)
    })
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #[test]
    fn instruction_sets_agree_bitwise((rows, cols, spec) in shape(), m in 1usize..=20, seed: u64) {
        let indices: Vec<u8> =
            (0..rows * cols / spec.vector).map(|i| (hash(seed, i) % spec.clusters() as u64) as u8).collect();
        let palettes = floats(seed ^ 1, spec.groups(rows) * spec.palette_len());
        let matrix = PalettizedMatrix::pack(rows, cols, spec, &palettes, &indices, None).unwrap();
        let x = floats(seed ^ 2, m * cols);
        let source = matrix.source();

        let run = |isa| {
            let (mut single, mut several) = (vec![f32::NAN; rows], vec![f32::NAN; m * rows]);
            super::matvec(&source, isa, &x[..cols], &mut single);
            super::matmul(&source, isa, &x, m, &mut several);
            prop_assert_eq!(bits(&single), bits(&several[..rows]));
            Ok(bits(&several))
        };
        let expected = run(Isa::Portable(Portable))?;
        for isa in Isa::available() {
            prop_assert_eq!(&run(isa)?, &expected, "{:?}", isa);
        }
    }
}
