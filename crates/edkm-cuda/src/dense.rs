//! Matrices of plain numbers in the type in which they are stored.
#![allow(unsafe_code)]

use crate::runtime::{blocks, blocks_for};
use crate::Argument::{Address, Size};
use crate::{check, Array, Runtime, Slice, SliceMut};

/// The type of stored numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

impl Kind {
    /// Bytes of a number.
    pub fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// As the kernels know it.
    pub(crate) fn number(self) -> usize {
        match self {
            Self::Bf16 => 0,
            Self::F16 => 1,
            Self::F32 => 2,
        }
    }
}

/// A matrix W `[rows, cols]` in a device's memory, in its own type: 2 or 4 bytes a number.
pub struct Dense<R: Runtime> {
    /// The bytes of the numbers, in words of 4 bytes, which suit each type.
    words: Array<R, u32>,
    kind: Kind,
    rows: usize,
    cols: usize,
}

impl<R: Runtime> Dense<R> {
    /// Copies a row-major matrix of little-endian numbers to the device.
    ///
    /// # Errors
    /// The runtime's.
    ///
    /// # Panics
    /// If there are not as many bytes as the shape asks for.
    pub fn new(runtime: &R, [rows, cols]: [usize; 2], kind: Kind, bytes: &[u8]) -> Result<Self, R::Error> {
        let expected = check::product("bytes of a dense matrix [rows, cols]", [rows, cols, kind.size()])?;
        check::len("bytes of [rows, cols]", bytes.len(), expected);
        let mut words = Array::unset(runtime, bytes.len().div_ceil(4))?;
        let numbers = words.as_mut().cast::<u8>();
        let [mut numbers, _] = numbers.split([bytes.len(), 0]);
        numbers.write_bytes(runtime, bytes)?;
        Ok(Self {
            words,
            kind,
            rows,
            cols,
        })
    }

    /// Output channels.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input channels.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The type of the numbers.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of the numbers.
    pub fn size_bytes(&self) -> usize {
        self.rows * self.cols * self.kind.size()
    }

    /// The numbers `[rows, cols]`, if they are f32.
    pub(crate) fn as_f32(&self) -> Option<Slice<'_, f32>> {
        (self.kind == Kind::F32).then(|| self.words.as_slice().cast())
    }

    /// Rows of W from `first` on as f32. `out [rows, cols]`.
    ///
    /// # Errors
    /// The runtime's.
    ///
    /// # Panics
    /// If there are not so many rows.
    pub fn widen(&self, runtime: &R, first: usize, out: SliceMut<'_, f32>) -> Result<(), R::Error> {
        let count = check::rows("out [rows, cols]", out.len(), self.cols);
        assert!(
            first + count <= self.rows,
            "rows {first}..{} of {}",
            first + count,
            self.rows
        );
        self.rows_into(runtime, None, first, out)
    }

    /// `out[n]` = row `ids[n]` of W as f32; NaN for a row that is not there. `ids [N]`, `out [N, cols]`.
    ///
    /// # Errors
    /// The runtime's.
    pub fn gather(&self, runtime: &R, ids: Slice<'_, u32>, out: SliceMut<'_, f32>) -> Result<(), R::Error> {
        check::shape("out [N, cols]", out.len(), [ids.len(), self.cols]);
        self.rows_into(runtime, Some(ids), 0, out)
    }

    fn rows_into(
        &self,
        runtime: &R,
        ids: Option<Slice<'_, u32>>,
        first: usize,
        mut out: SliceMut<'_, f32>,
    ) -> Result<(), R::Error> {
        let len = out.len();
        let arguments = [
            self.words.as_slice().argument(),
            ids.map_or(Address(0), Slice::argument),
            out.argument(),
            Size(self.kind.number()),
            Size(first),
            Size(self.rows),
            Size(self.cols),
            Size(len),
        ];
        // SAFETY: edkm_dense_rows(numbers, ids, out, kind, first, rows, cols, len) reaches `len` numbers of out, len / cols ids unless they are null,
        // and rows below `rows` of the numbers, which are of the kind.
        unsafe { runtime.launch("edkm_dense_rows", blocks_for(len), &arguments) }
    }

    /// y = x Wᵀ for M inputs, from the numbers in their own type, read once an input. `x [M, cols]`, `y [M, rows]`.
    ///
    /// # Errors
    /// The runtime's.
    pub fn multiply(&self, runtime: &R, x: Slice<'_, f32>, mut y: SliceMut<'_, f32>) -> Result<(), R::Error> {
        let inputs = check::rows("x [M, cols]", x.len(), self.cols);
        check::shape("y [M, rows]", y.len(), [inputs, self.rows]);
        let arguments = [
            self.words.as_slice().argument(),
            x.argument(),
            y.argument(),
            Size(self.kind.number()),
            Size(self.rows),
            Size(self.cols),
            Size(inputs),
        ];
        // SAFETY: edkm_dense_product(numbers, x, y, kind, rows, cols, inputs) reaches rows x cols numbers of the kind, inputs x cols of x and
        // inputs x rows of y.
        unsafe { runtime.launch("edkm_dense_product", blocks(self.rows), &arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Nowhere;

    #[test]
    fn a_shape_that_wraps_around_is_an_error() {
        let error = Dense::new(&Nowhere, [1 << 31, 1 << 32], Kind::F16, &[]).err();
        let message = "bytes of a dense matrix [rows, cols]: 2147483648 x 4294967296 x 2 is too large";
        let error = error.expect("2^64 bytes").to_string();
        assert!(error.starts_with(message), "{error}");
    }
}
