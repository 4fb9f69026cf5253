//! A weight matrix in the form in which it is stored, and its products for few and many inputs.
//!
//! Few inputs are multiplied from the stored form, which is then read once an input. For many the matrix is made f32 a run of rows at a time, in one
//! buffer for all matrices, and multiplied by [`product`](crate::product), as precisely as the runtime was told. m inputs are few if
//! m x bits <= bits + 64, with the bits of a weight: up to 22 at 3 bits, 9 at 8, 5 at 16. That was counted in bytes that move, not measured.

use crate::dense::{Dense, Kind};
use crate::packed::Packed;
use crate::product::nt_in_columns;
use crate::{check, Array, Runtime, Slice, SliceMut};

/// Numbers that are made f32 at once, at most: 128 MiB. More only where a single row is longer.
const MOST_UNPACKED: usize = 1 << 25;

/// A matrix W `[rows, cols]` = `[outputs, inputs]`.
pub enum Matrix<R: Runtime> {
    /// Palettes and packed indices.
    Packed(Packed<R>),
    /// Plain numbers.
    Dense(Dense<R>),
}

/// Where matrices are made f32, one after the other: memory that is there once it is needed.
pub struct Unpacked<R: Runtime> {
    numbers: usize,
    memory: Option<Array<R, f32>>,
}

impl<R: Runtime> Unpacked<R> {
    /// Room for the products of such matrices, given as `[rows, cols]`. Memory: the numbers of the largest, at most 2^25, x 4 bytes.
    pub fn new(shapes: impl IntoIterator<Item = [usize; 2]>) -> Self {
        let needed = |[rows, cols]: [usize; 2]| rows.saturating_mul(cols).min(MOST_UNPACKED).max(cols);
        let numbers = shapes.into_iter().map(needed).max().unwrap_or(0);
        Self { numbers, memory: None }
    }

    /// Bytes of the memory, once it is there.
    pub fn size_bytes(&self) -> usize {
        self.numbers * 4
    }

    /// Frees the memory until it is needed again.
    pub fn give_back(&mut self) {
        self.memory = None;
    }

    fn memory(&mut self, runtime: &R) -> Result<&mut Array<R, f32>, R::Error> {
        let memory = match self.memory.take() {
            Some(memory) => memory,
            None => Array::unset(runtime, self.numbers)?,
        };
        Ok(self.memory.insert(memory))
    }
}

/// Inputs up to which a product from the stored form moves no more bytes than the other way, where `weights` of them take `bits` bits together: these are
/// read once an input, or else once in all, and then 4 bytes a weight are written and read. So inputs x bits <= bits + 64 x weights.
fn most_inputs_as_stored(bits: usize, weights: usize) -> usize {
    1 + 64 * weights / bits
}

impl<R: Runtime> Matrix<R> {
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

    /// Bytes of the device's memory.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.size_bytes(),
            Self::Dense(dense) => dense.size_bytes(),
        }
    }

    /// `out[n]` = row `ids[n]` of W; NaN for a row that is not there. `ids [N]`, `out [N, cols]`.
    ///
    /// # Errors
    /// The runtime's.
    pub fn gather(&self, runtime: &R, ids: Slice<'_, u32>, out: SliceMut<'_, f32>) -> Result<(), R::Error> {
        match self {
            Self::Packed(packed) => packed.gather(runtime, ids, out),
            Self::Dense(dense) => dense.gather(runtime, ids, out),
        }
    }

    /// y = x Wᵀ for M inputs. `x [M, cols]`, `y [M, rows]`.
    ///
    /// # Errors
    /// The runtime's.
    ///
    /// # Panics
    /// If the lengths do not fit, or `unpacked` has no room for a row.
    pub fn multiply(
        &self,
        runtime: &R,
        x: Slice<'_, f32>,
        mut y: SliceMut<'_, f32>,
        unpacked: &mut Unpacked<R>,
    ) -> Result<(), R::Error> {
        let (rows, cols) = (self.rows(), self.cols());
        let inputs = check::rows("x [M, cols]", x.len(), cols);
        check::shape("y [M, rows]", y.len(), [inputs, rows]);
        match self {
            Self::Packed(packed) if inputs <= most_inputs_as_stored(packed.bits(), packed.vector()) => {
                return packed.multiply(runtime, x, y)
            }
            Self::Dense(dense) if dense.kind() != Kind::F32 && inputs <= most_inputs_as_stored(16, 1) => {
                return dense.multiply(runtime, x, y)
            }
            _ => {}
        }
        if let Self::Dense(dense) = self {
            if let Some(w) = dense.as_f32() {
                return nt_in_columns(runtime, [inputs, rows, cols], x, w, y, 0);
            }
        }
        let at_once = unpacked.numbers / cols;
        assert!(at_once > 0, "no room to unpack a row of {cols} numbers");
        let memory = unpacked.memory(runtime)?;
        for first in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - first);
            let mut to = memory.as_mut();
            match self {
                Self::Packed(packed) => packed.unpack(runtime, first, to.part(0, count * cols)),
                Self::Dense(dense) => dense.widen(runtime, first, to.part(0, count * cols)),
            }?;
            let w = memory.as_slice().part(0, count * cols);
            nt_in_columns(runtime, [inputs, count, cols], x, w, y.reborrow(), first)?;
        }
        Ok(())
    }
}
