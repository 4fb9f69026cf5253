//! A weight matrix in the form in which it is stored, and its products.

use edkm_palette::PalettizedMatrix;

use super::dense::DenseMatrix;

/// A matrix `W` of `[rows, cols]` = `[outputs, inputs]`.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// Palettes and packed indices, multiplied from the packed words.
    Packed(Box<PalettizedMatrix>),
    /// Plain numbers of any floating-point type.
    Dense(DenseMatrix),
}

impl Matrix {
    /// Outputs.
    pub fn rows(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.rows(),
            Self::Dense(dense) => dense.rows(),
        }
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.cols(),
            Self::Dense(dense) => dense.cols(),
        }
    }

    /// Bytes of the matrix as it is stored.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.size_bytes(),
            Self::Dense(dense) => dense.size_bytes(),
        }
    }

    /// Whether its numbers lie in a mapped file rather than in memory of this process.
    pub fn is_mapped(&self) -> bool {
        match self {
            Self::Packed(packed) => packed.is_mapped(),
            Self::Dense(dense) => dense.is_mapped(),
        }
    }

    /// `y = x W^T` for `m` inputs, overwriting `y`: `x` is `[m, cols]`, `y` is `[m, rows]`.
    ///
    /// # Panics
    /// If a slice has another length.
    pub(super) fn apply(&self, x: &[f32], m: usize, y: &mut [f32]) {
        match self {
            Self::Packed(packed) => packed
                .matmul(x, m, y)
                .expect("slices of the lengths that the shape asks for"),
            Self::Dense(dense) => dense.apply(x, m, y),
        }
    }

    /// Writes one row, as an embedding does.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not one row long.
    pub(super) fn row_into(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Packed(packed) => packed.row_into(row, out).expect("a row of the matrix"),
            Self::Dense(dense) => dense.row_into(row, out),
        }
    }
}
