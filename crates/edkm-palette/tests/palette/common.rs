//! Random palettized matrices.

use std::num::NonZeroUsize;

use edkm_palette::{PaletteDType, PaletteSpec, PalettizedMatrix};
use proptest::prelude::*;

/// What a matrix is packed from.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) spec: PaletteSpec,
    pub(crate) palettes: Vec<f32>,
    pub(crate) indices: Vec<u8>,
    pub(crate) row_scales: Option<Vec<f32>>,
}

impl Parts {
    /// Parts whose numbers follow from `seed`.
    pub(crate) fn random(rows: usize, cols: usize, spec: PaletteSpec, scaled: bool, seed: u64) -> Self {
        let mut random = SplitMix(seed);
        let palettes = (0..spec.groups(rows) * spec.palette_len())
            .map(|_| random.symmetric())
            .collect();
        let indices = (0..rows * (cols / spec.vector))
            .map(|_| (random.next() % spec.clusters() as u64) as u8)
            .collect();
        // every other matrix has factors that bf16 holds
        let kept = if seed.is_multiple_of(2) { u32::MAX } else { 0xffff_0000 };
        let mut scale = || f32::from_bits((1.0 + 0.5 * random.symmetric()).to_bits() & kept);
        let row_scales = scaled.then(|| (0..rows).map(|_| scale()).collect());
        Parts {
            rows,
            cols,
            spec,
            palettes,
            indices,
            row_scales,
        }
    }

    pub(crate) fn pack(&self) -> PalettizedMatrix {
        PalettizedMatrix::pack(
            self.rows,
            self.cols,
            self.spec,
            &self.palettes,
            &self.indices,
            self.row_scales.as_deref(),
        )
        .unwrap()
    }

    /// The weights by their definition, with palettes as the matrix holds them.
    pub(crate) fn weights(&self, matrix: &PalettizedMatrix) -> Vec<f32> {
        let group_rows = self.spec.group_rows.map_or(self.rows, NonZeroUsize::get);
        let vector = self.spec.vector;
        let mut weights = Vec::with_capacity(self.rows * self.cols);
        for row in 0..self.rows {
            let palette = matrix.palette(row / group_rows);
            for col in 0..self.cols {
                let index = usize::from(self.indices[row * (self.cols / vector) + col / vector]);
                let scale = self.row_scales.as_ref().map_or(1.0, |scales| scales[row]);
                weights.push(palette[index * vector + col % vector] * scale);
            }
        }
        weights
    }
}

/// Any shape, width, group, vector length, palette dtype and scale.
pub(crate) fn parts() -> impl Strategy<Value = Parts> {
    let dtype = prop_oneof![
        Just(PaletteDType::F32),
        Just(PaletteDType::F16),
        Just(PaletteDType::Bf16),
        Just(PaletteDType::I8)
    ];
    let group = prop_oneof![Just(None), (1usize..=40).prop_map(Some)];
    // Sizes around the borders: tiles of 16 rows, words of 32 bits, blocks of 256 columns.
    let positions = prop_oneof![1usize..=70, 250usize..=300];
    (
        1usize..=70,
        positions,
        1u8..=8,
        prop_oneof![Just(1usize), Just(2), Just(4), Just(8)],
        group,
        dtype,
        any::<bool>(),
        any::<u64>(),
    )
        .prop_map(|(rows, positions, bits, vector, group, palette_dtype, scaled, seed)| {
            let spec = PaletteSpec {
                bits,
                group_rows: group.and_then(NonZeroUsize::new),
                vector,
                palette_dtype,
            };
            Parts::random(rows, positions * vector, spec, scaled, seed)
        })
}

/// A generator that needs no crate.
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1).
    pub(crate) fn symmetric(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn vector(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.symmetric()).collect()
    }
}
