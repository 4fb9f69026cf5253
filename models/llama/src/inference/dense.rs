//! Matrices of plain numbers, used in the type in which they are stored.
//!
//! Half-precision weights stay as they are and are widened to f32 tile by tile, in a cache, when they are multiplied: the
//! memory that a product reads is that of the file, and none is held beside it.

use std::{cell::Cell, ops::Range, sync::Arc};

use edkm_kernels::{
    lanes::dispatch,
    matmul::{self, Accumulate},
};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;

use crate::checkpoint::{FloatDtype, SharedBytes};

/// Numbers widened at once for one input: 64 KiB of f32, which the second-level cache holds beside the input.
const VECTOR_TILE: usize = 1 << 14;

/// A matrix `[rows, cols]` of f32, f16 or bf16.
///
/// Memory: that of its numbers if they are owned; nothing if they lie in a mapped file, whose pages the operating
/// system brings in and drops. While a product of half-precision weights runs: 64 KiB for each thread, or 1 MiB
/// for more than one input.
#[derive(Clone, Debug)]
pub struct DenseMatrix {
    rows: usize,
    cols: usize,
    numbers: Numbers,
}

#[derive(Clone, Debug)]
enum Numbers {
    Owned(Arc<Vec<f32>>),
    Mapped(SharedBytes, FloatDtype),
}

/// The numbers in their own type.
#[derive(Clone, Copy)]
enum View<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl DenseMatrix {
    /// A matrix of its own numbers, row-major; `None` unless there are `rows * cols` of them.
    pub fn owned(rows: usize, cols: usize, numbers: Vec<f32>) -> Option<Self> {
        let numbers = Numbers::Owned(Arc::new(numbers));
        (rows.checked_mul(cols)? == numbers.len()).then_some(Self { rows, cols, numbers })
    }

    /// A matrix of little-endian numbers that lie in shared memory; `None` unless there are `rows * cols` of them.
    ///
    /// They are used in place if their address suits their type and the machine has their byte order, which is so
    /// for nearly all files and machines, and otherwise copied to f32.
    pub fn shared(rows: usize, cols: usize, bytes: SharedBytes, dtype: FloatDtype) -> Option<Self> {
        let expected = rows.checked_mul(cols)?.checked_mul(dtype.size())?;
        if bytes.as_slice().len() != expected {
            return None;
        }
        let in_place = cfg!(target_endian = "little") && view(bytes.as_slice(), dtype).is_some();
        let numbers = if in_place {
            Numbers::Mapped(bytes, dtype)
        } else {
            Numbers::Owned(Arc::new(widen_bytes(bytes.as_slice(), dtype)))
        };
        Some(Self { rows, cols, numbers })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of the numbers.
    pub fn size_bytes(&self) -> usize {
        match &self.numbers {
            Numbers::Owned(numbers) => numbers.len() * 4,
            Numbers::Mapped(bytes, _) => bytes.as_slice().len(),
        }
    }

    /// Whether the numbers lie in shared memory, such as a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.numbers, Numbers::Mapped(..))
    }

    /// The numbers as bytes, and their type.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "for a GPU"))]
    pub(super) fn stored(&self) -> (&[u8], FloatDtype) {
        match &self.numbers {
            Numbers::Owned(numbers) => (bytemuck::cast_slice(numbers), FloatDtype::F32),
            Numbers::Mapped(bytes, dtype) => (bytes.as_slice(), *dtype),
        }
    }

    fn view(&self) -> View<'_> {
        match &self.numbers {
            Numbers::Owned(numbers) => View::F32(numbers),
            Numbers::Mapped(bytes, dtype) => {
                view(bytes.as_slice(), *dtype).expect("checked when the matrix was made; a map does not move")
            }
        }
    }

    /// `y = x W^T`, see [`Matrix::apply`](super::Matrix::apply).
    pub(super) fn apply(&self, x: &[f32], m: usize, y: &mut [f32]) {
        let (rows, cols) = (self.rows, self.cols);
        match (self.view(), m) {
            (_, 0) => {}
            (View::F32(w), _) => matmul::nt(m, rows, cols, x, w, y, Accumulate::Overwrite),
            (View::F16(w), 1) => matvec(w, cols, x, y),
            (View::Bf16(w), 1) => matvec(w, cols, x, y),
            (View::F16(w), _) => matmul(w, cols, x, m, y),
            (View::Bf16(w), _) => matmul(w, cols, x, m, y),
        }
    }

    /// Writes one row, see [`Matrix::row_into`](super::Matrix::row_into).
    pub(super) fn row_into(&self, row: usize, out: &mut [f32]) {
        let range = row * self.cols..(row + 1) * self.cols;
        match self.view() {
            View::F32(numbers) => out.copy_from_slice(&numbers[range]),
            View::F16(numbers) => Half::widen(&numbers[range], out),
            View::Bf16(numbers) => Half::widen(&numbers[range], out),
        }
    }

    /// The first number that is NaN or infinite, with its row-major index. Reads the whole matrix.
    pub(super) fn first_not_finite(&self) -> Option<(usize, f32)> {
        fn find<T: Copy + Sync>(numbers: &[T], value: fn(T) -> f32) -> Option<(usize, f32)> {
            let index = numbers
                .par_iter()
                .position_first(|&number| !value(number).is_finite())?;
            Some((index, value(numbers[index])))
        }
        match self.view() {
            View::F32(numbers) => find(numbers, |number| number),
            View::F16(numbers) => find(numbers, f16::to_f32),
            View::Bf16(numbers) => find(numbers, bf16::to_f32),
        }
    }
}

impl Numbers {
    fn len(&self) -> usize {
        match self {
            Self::Owned(numbers) => numbers.len(),
            Self::Mapped(bytes, dtype) => bytes.as_slice().len() / dtype.size(),
        }
    }
}

/// The bytes as numbers, where their address allows it.
fn view(bytes: &[u8], dtype: FloatDtype) -> Option<View<'_>> {
    match dtype {
        FloatDtype::F32 => bytemuck::try_cast_slice(bytes).ok().map(View::F32),
        FloatDtype::F16 => bytemuck::try_cast_slice(bytes).ok().map(View::F16),
        FloatDtype::Bf16 => bytemuck::try_cast_slice(bytes).ok().map(View::Bf16),
    }
}

fn widen_bytes(bytes: &[u8], dtype: FloatDtype) -> Vec<f32> {
    let halves = |value: fn(u16) -> f32| {
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|&b| value(u16::from_le_bytes(b)))
            .collect()
    };
    match dtype {
        FloatDtype::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        FloatDtype::F16 => halves(|bits| f16::from_bits(bits).to_f32()),
        FloatDtype::Bf16 => halves(|bits| bf16::from_bits(bits).to_f32()),
    }
}

/// A half-precision number.
trait Half: Copy + Sync {
    /// Converts numbers; both slices are of one length.
    fn widen(from: &[Self], to: &mut [f32]);
}

impl Half for f16 {
    fn widen(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
}

impl Half for bf16 {
    fn widen(from: &[Self], to: &mut [f32]) {
        // The upper half of an f32. (The conversion of the crate `half` treats NaN apart, which costs it the vectors.)
        dispatch(
            #[inline(always)]
            || {
                to.iter_mut()
                    .zip(from)
                    .for_each(|(to, from)| *to = f32::from_bits(u32::from(from.to_bits()) << 16))
            },
        );
    }
}

thread_local! {
    /// Where tiles are widened. Taken out while in use, so that a thread which helps out elsewhere meanwhile finds none
    /// and makes its own.
    static TILE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// `y = W x`: a tile of rows is widened and multiplied by one thread.
fn matvec<H: Half>(w: &[H], cols: usize, x: &[f32], y: &mut [f32]) {
    let rows = (VECTOR_TILE / cols).max(1);
    let piece = |(i, y): (usize, &mut [f32])| {
        let mut tile = TILE.take();
        tile.resize(rows.max(1) * cols, 0.0);
        let widened = &mut tile[..y.len() * cols];
        H::widen(&w[i * rows * cols..][..y.len() * cols], widened);
        matmul::nt(1, y.len(), cols, x, widened, y, Accumulate::Overwrite);
        TILE.set(tile);
    };
    if y.len() <= 2 * rows {
        y.chunks_mut(rows).enumerate().for_each(piece);
    } else {
        y.par_chunks_mut(rows).enumerate().for_each(piece);
    }
}

/// `y = x W^T`: a tile is widened and multiplied by one thread.
fn matmul<H: Half>(w: &[H], cols: usize, x: &[f32], m: usize, y: &mut [f32]) {
    let widen = |rows: Range<usize>, columns: Range<usize>, to: &mut [f32]| {
        for (row, to) in rows.zip(to.chunks_exact_mut(columns.len())) {
            H::widen(&w[row * cols..][columns.clone()], to);
        }
    };
    matmul::nt_widened(m, y.len() / m, cols, x, widen, y);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::testing::numbers;

    /// Each type against f32 numbers of the same values, for sizes around the tiles.
    #[test]
    fn every_type_gives_the_products_of_its_values() {
        for (rows, cols) in [(1, 2), (3, 5), (40, 1000), (9, 20_000), (700, 64), (131, 1030)] {
            let values: Vec<f32> = numbers(1, rows * cols)
                .iter()
                .map(|&v| bf16::from_f32(v).to_f32())
                .collect();
            let f16s: Vec<u8> = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
            let bf16s: Vec<u8> = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
            let f32s: Vec<u8> = values.iter().flat_map(|&v| v.to_le_bytes()).collect();
            let plain = DenseMatrix::owned(rows, cols, values).unwrap();
            for (bytes, dtype) in [
                (f16s, FloatDtype::F16),
                (bf16s, FloatDtype::Bf16),
                (f32s, FloatDtype::F32),
            ] {
                for shift in [0, 1] {
                    let matrix = shared(rows, cols, &bytes, dtype, shift);
                    assert_eq!(matrix.is_mapped(), shift == 0 && cfg!(target_endian = "little"));
                    for m in [1, 2, 17] {
                        let x = numbers(2, m * cols);
                        let (mut got, mut want) = (vec![f32::NAN; m * rows], vec![f32::NAN; m * rows]);
                        matrix.apply(&x, m, &mut got);
                        plain.apply(&x, m, &mut want);
                        // Values in -1..1: f16 rounds those below 2^-14 of them, the sums their last places.
                        let tolerance = 1e-6 * cols as f32;
                        for (got, want) in got.iter().zip(&want) {
                            assert!(
                                (got - want).abs() <= tolerance,
                                "{dtype} {rows} x {cols}, {m}: {got} {want}"
                            );
                        }
                    }
                    let (mut got, mut want) = (vec![f32::NAN; cols], vec![f32::NAN; cols]);
                    matrix.row_into(rows - 1, &mut got);
                    plain.row_into(rows - 1, &mut want);
                    assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-6));
                }
            }
        }
    }

    /// The bytes at an address that suits their type, or `shift` bytes behind one.
    fn shared(rows: usize, cols: usize, bytes: &[u8], dtype: FloatDtype, shift: usize) -> DenseMatrix {
        let mut owner = vec![0; bytes.len() + 16];
        let start = owner.as_ptr().align_offset(8) + shift;
        owner[start..start + bytes.len()].copy_from_slice(bytes);
        let bytes = SharedBytes::new(Arc::new(owner), start..start + bytes.len()).unwrap();
        DenseMatrix::shared(rows, cols, bytes, dtype).unwrap()
    }

    #[test]
    fn the_wrong_number_of_numbers_is_refused() {
        assert!(DenseMatrix::owned(2, 3, vec![0.0; 5]).is_none());
        assert!(DenseMatrix::owned(usize::MAX, 2, vec![]).is_none());
        let bytes = SharedBytes::new(Arc::new(vec![0; 10]), 0..10).unwrap();
        assert!(DenseMatrix::shared(2, 3, bytes, FloatDtype::F16).is_none());
    }

    #[test]
    fn the_first_number_that_is_not_finite_is_found() {
        let mut values = numbers(1, 1000);
        assert_eq!(
            DenseMatrix::owned(10, 100, values.clone()).unwrap().first_not_finite(),
            None
        );
        values[900] = f32::NAN;
        values[123] = f32::INFINITY;
        assert_eq!(
            DenseMatrix::owned(10, 100, values).unwrap().first_not_finite(),
            Some((123, f32::INFINITY))
        );
    }
}
