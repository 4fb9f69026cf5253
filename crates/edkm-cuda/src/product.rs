//! Matrix products of row-major matrices.
//!
//! cuBLAS holds matrices column by column: a row-major matrix is the transpose of what it sees. So c = a b is computed as cᵀ = bᵀ aᵀ, with the
//! operands changed over.
#![allow(unsafe_code)]

use crate::runtime::{blocks_for, THREADS};
use crate::Argument::{Float, Size};
#[cfg(any(feature = "driver", test))]
use crate::TooLarge;
use crate::{check, Array, Runtime, Slice, SliceMut};

pub use edkm_kernels::matmul::Accumulate;

/// How the operands of products are rounded. Sums are taken in f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// To TF32, 10 bits of fraction, by the tensor cores themselves, which may cut off the rest: a relative error of up to 2^-10 each, so up to 2^-9 of the
    /// sum of the magnitudes of the terms.
    Tf32,
    /// To f16, 10 bits of fraction, in scratch memory of two bytes a number. Each operand is multiplied by a power of two before, so that its largest
    /// number is in the upper range of f16; those down to 2^-28 of it have a relative error of up to 2^-11, and smaller ones an error of up to
    /// 2^-39 of the largest: up to 2^-10 of the sum of the magnitudes of the terms. Operands whose largest numbers multiply to less than 2^-98 give zeros.
    F16,
}

/// What lies where the operands of a [`Product`] begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operands {
    /// f32; C = op(A) op(B) + beta C.
    F32 {
        /// 0 or 1.
        beta: f32,
    },
    /// The same, rounded to TF32 on the way.
    Tf32 {
        /// 0 or 1.
        beta: f32,
    },
    /// f16; C = alpha op(A) op(B) + beta C.
    F16 {
        /// Where alpha and beta stand, two f32 in the runtime's memory.
        scales: u64,
    },
}

/// Whether cuBLAS reads an operand as it lies, or transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// As it lies, column by column.
    None,
    /// Transposed.
    Transpose,
}

/// A product in cuBLAS's terms: C = op(A) op(B) + beta C in f32, column-major, op(A) `m x k`, op(B) `k x n`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Product {
    /// Their type, and beta.
    pub operands: Operands,
    /// How A is read.
    pub op_a: Operation,
    /// How B is read.
    pub op_b: Operation,
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Where A begins.
    pub a: u64,
    /// From one column of A to the next.
    pub lda: usize,
    /// Where B begins.
    pub b: u64,
    /// From one column of B to the next.
    pub ldb: usize,
    /// Where C begins.
    pub c: u64,
    /// From one column of C to the next.
    pub ldc: usize,
}

#[cfg(any(feature = "driver", test))]
impl Product {
    /// m, n, k and the three distances of columns, as cuBLAS counts them.
    pub(crate) fn sizes(&self) -> Result<[i32; 6], TooLarge> {
        Ok([
            check::in_i32("columns of a product", self.m)?,
            check::in_i32("rows of a product", self.n)?,
            check::in_i32("terms of a product's sums", self.k)?,
            check::in_i32("the second operand of a product, from row to row", self.lda)?,
            check::in_i32("the first operand of a product, from row to row", self.ldb)?,
            check::in_i32("the result of a product, from row to row", self.ldc)?,
        ])
    }
}

/// c = a bᵀ. `a [m, k]`, `b [n, k]`, `c [m, n]`.
///
/// # Errors
/// The runtime's.
pub fn nt<R: Runtime>(
    runtime: &R,
    [m, n, k]: [usize; 3],
    a: Slice<'_, f32>,
    b: Slice<'_, f32>,
    c: SliceMut<'_, f32>,
    accumulate: Accumulate,
) -> Result<(), R::Error> {
    check::shape("a [m, k]", a.len(), [m, k]);
    check::shape("b [n, k]", b.len(), [n, k]);
    let operands = [(b, Operation::Transpose, k), (a, Operation::None, k)];
    multiply(runtime, [m, n, k], operands, c, accumulate)
}

/// The columns from `first` on of c = a bᵀ; the others stay. `a [m, k]`, `b [n, k]`, `c [m, any]`.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// If `c` has fewer columns than `first + n`.
pub(crate) fn nt_in_columns<R: Runtime>(
    runtime: &R,
    [m, n, k]: [usize; 3],
    a: Slice<'_, f32>,
    b: Slice<'_, f32>,
    c: SliceMut<'_, f32>,
    first: usize,
) -> Result<(), R::Error> {
    check::shape("a [m, k]", a.len(), [m, k]);
    check::shape("b [n, k]", b.len(), [n, k]);
    if m == 0 {
        return Ok(());
    }
    let columns = c.len() / m;
    check::len("c [m, columns]", c.len(), m * columns);
    assert!(
        first.checked_add(n).is_some_and(|end| end <= columns),
        "{n} columns from {first} on, of {columns}"
    );
    let operands = [(b, Operation::Transpose, k), (a, Operation::None, k)];
    let place = Place {
        first,
        columns,
        accumulate: Accumulate::Overwrite,
    };
    multiply_into(runtime, [m, n, k], operands, c, place)
}

/// c = a b. `a [m, k]`, `b [k, n]`, `c [m, n]`.
///
/// # Errors
/// The runtime's.
pub fn nn<R: Runtime>(
    runtime: &R,
    [m, n, k]: [usize; 3],
    a: Slice<'_, f32>,
    b: Slice<'_, f32>,
    c: SliceMut<'_, f32>,
    accumulate: Accumulate,
) -> Result<(), R::Error> {
    check::shape("a [m, k]", a.len(), [m, k]);
    check::shape("b [k, n]", b.len(), [k, n]);
    let operands = [(b, Operation::None, n), (a, Operation::None, k)];
    multiply(runtime, [m, n, k], operands, c, accumulate)
}

/// c = aᵀ b. `a [k, m]`, `b [k, n]`, `c [m, n]`.
///
/// # Errors
/// The runtime's.
pub fn tn<R: Runtime>(
    runtime: &R,
    [m, n, k]: [usize; 3],
    a: Slice<'_, f32>,
    b: Slice<'_, f32>,
    c: SliceMut<'_, f32>,
    accumulate: Accumulate,
) -> Result<(), R::Error> {
    check::shape("a [k, m]", a.len(), [k, m]);
    check::shape("b [k, n]", b.len(), [k, n]);
    let operands = [(b, Operation::None, n), (a, Operation::Transpose, m)];
    multiply(runtime, [m, n, k], operands, c, accumulate)
}

fn multiply<R: Runtime>(
    runtime: &R,
    [m, n, k]: [usize; 3],
    operands: [(Slice<'_, f32>, Operation, usize); 2],
    c: SliceMut<'_, f32>,
    accumulate: Accumulate,
) -> Result<(), R::Error> {
    check::shape("c [m, n]", c.len(), [m, n]);
    let place = Place {
        first: 0,
        columns: n,
        accumulate,
    };
    multiply_into(runtime, [m, n, k], operands, c, place)
}

/// Which columns of c a product is, and whether it is added to them.
struct Place {
    first: usize,
    columns: usize,
    accumulate: Accumulate,
}

fn multiply_into<R: Runtime>(
    runtime: &R,
    [m, n, k]: [usize; 3],
    [(a, op_a, lda), (b, op_b, ldb)]: [(Slice<'_, f32>, Operation, usize); 2],
    mut c: SliceMut<'_, f32>,
    place: Place,
) -> Result<(), R::Error> {
    if m == 0 || n == 0 {
        return Ok(());
    }
    let beta = match place.accumulate {
        Accumulate::Overwrite => 0.0,
        Accumulate::Add => 1.0,
    };
    let product = Product {
        operands: Operands::F32 { beta },
        op_a,
        op_b,
        m: n,
        n: m,
        k,
        a: a.address(),
        lda: lda.max(1),
        b: b.address(),
        ldb: ldb.max(1),
        c: c.address() + (place.first * size_of::<f32>()) as u64,
        ldc: place.columns,
    };
    let product = match runtime.precision() {
        Precision::F32 => product,
        Precision::Tf32 => Product {
            operands: Operands::Tf32 { beta },
            ..product
        },
        Precision::F16 => {
            let (a, b) = (Halves::of(runtime, a)?, Halves::of(runtime, b)?);
            let mut scales = Array::<R, f32>::unset(runtime, 2)?;
            let arguments = [
                a.magnitude.as_slice().argument(),
                b.magnitude.as_slice().argument(),
                Float(beta),
                scales.as_mut().argument(),
            ];
            // SAFETY: edkm_half_scales(magnitude_a, magnitude_b, beta, scales) reaches one number of each magnitude and two of scales.
            unsafe { runtime.launch("edkm_half_scales", 1, &arguments) }?;
            let product = Product {
                operands: Operands::F16 {
                    scales: scales.as_slice().address(),
                },
                a: a.numbers.as_slice().address(),
                b: b.numbers.as_slice().address(),
                ..product
            };
            // SAFETY: as below, for operands and scales that live until the call returns: what is freed after it is freed behind it.
            return unsafe { runtime.multiply(&product) };
        }
    };
    // SAFETY: the slices are in the runtime's memory, and their lengths are those of the matrices; the columns are columns of c.
    unsafe { runtime.multiply(&product) }
}

/// An operand rounded to f16.
struct Halves<R: Runtime> {
    /// f16
    numbers: Array<R, u16>,
    /// The largest magnitude of the operand, as the bits of an f32.
    magnitude: Array<R, u32>,
}

impl<R: Runtime> Halves<R> {
    fn of(runtime: &R, x: Slice<'_, f32>) -> Result<Self, R::Error> {
        /// Blocks that look for the largest number: each ends with one atomic maximum.
        const MOST: usize = 1024;
        let len = x.len();
        let mut magnitude = Array::zeroed(runtime, 1)?;
        let blocks = len.div_ceil(8 * THREADS).clamp(1, MOST) as u32;
        let arguments = [
            x.argument(),
            magnitude.as_mut().argument(),
            Size(len),
            Size(len),
            Size(blocks as usize),
        ];
        // SAFETY: edkm_largest_magnitude(x, magnitudes, len, all, blocks of each) reaches `len` numbers of x and one magnitude.
        unsafe { runtime.launch("edkm_largest_magnitude", blocks, &arguments) }?;
        let mut numbers = Array::unset(runtime, len)?;
        let arguments = [
            x.argument(),
            magnitude.as_slice().argument(),
            numbers.as_mut().argument(),
            Size(len),
        ];
        // SAFETY: edkm_to_half(x, magnitude, half, len) reaches `len` numbers of x and half, and one of magnitude.
        unsafe { runtime.launch("edkm_to_half", blocks_for(len), &arguments) }?;
        Ok(Self { numbers, magnitude })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_that_cublas_counts() {
        let product = Product {
            operands: Operands::F32 { beta: 0.0 },
            op_a: Operation::None,
            op_b: Operation::None,
            m: 2,
            n: 3,
            k: 4,
            a: 0,
            lda: 5,
            b: 0,
            ldb: 6,
            c: 0,
            ldc: 7,
        };
        assert_eq!(product.sizes(), Ok([2, 3, 4, 5, 6, 7]));
        let message = |product: Product| product.sizes().unwrap_err().to_string();
        let most = "2147483648 is too large, the most is 2147483647";
        let rows = Product { n: 1 << 31, ..product };
        assert_eq!(message(rows), format!("rows of a product: {most}"));
        let strided = Product {
            ldc: 1 << 31,
            ..product
        };
        assert_eq!(
            message(strided),
            format!("the result of a product, from row to row: {most}")
        );
    }
}
