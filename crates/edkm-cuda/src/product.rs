//! Matrix products of row-major matrices.
//!
//! cuBLAS holds matrices column by column: a row-major matrix is the transpose of what it sees. So c = a b is computed as cᵀ = bᵀ aᵀ, with the
//! operands changed over.
#![allow(unsafe_code)]

use crate::{check, Runtime, Slice, SliceMut};

pub use edkm_kernels::matmul::Accumulate;

/// Whether cuBLAS reads an operand as it lies, or transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// As it lies, column by column.
    None,
    /// Transposed.
    Transpose,
}

/// A product in cuBLAS's terms: C = op(A) op(B) + beta C, column-major, op(A) `m x k`, op(B) `k x n`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Product {
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
    /// 0 or 1.
    pub beta: f32,
    /// Where C begins.
    pub c: u64,
    /// From one column of C to the next.
    pub ldc: usize,
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
    check::len("a [m, k]", a.len(), m * k);
    check::len("b [n, k]", b.len(), n * k);
    let operands = [(b, Operation::Transpose, k), (a, Operation::None, k)];
    multiply(runtime, [m, n, k], operands, c, accumulate)
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
    check::len("a [m, k]", a.len(), m * k);
    check::len("b [k, n]", b.len(), k * n);
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
    check::len("a [k, m]", a.len(), k * m);
    check::len("b [k, n]", b.len(), k * n);
    let operands = [(b, Operation::None, n), (a, Operation::Transpose, m)];
    multiply(runtime, [m, n, k], operands, c, accumulate)
}

fn multiply<R: Runtime>(
    runtime: &R,
    [m, n, k]: [usize; 3],
    [(a, op_a, lda), (b, op_b, ldb)]: [(Slice<'_, f32>, Operation, usize); 2],
    mut c: SliceMut<'_, f32>,
    accumulate: Accumulate,
) -> Result<(), R::Error> {
    check::len("c [m, n]", c.len(), m * n);
    if m == 0 || n == 0 {
        return Ok(());
    }
    let product = Product {
        op_a,
        op_b,
        m: n,
        n: m,
        k,
        a: a.address(),
        lda: lda.max(1),
        b: b.address(),
        ldb: ldb.max(1),
        beta: match accumulate {
            Accumulate::Overwrite => 0.0,
            Accumulate::Add => 1.0,
        },
        c: c.address(),
        ldc: n,
    };
    // SAFETY: the slices are in the runtime's memory, and their lengths are those of the matrices.
    unsafe { runtime.multiply(&product) }
}
