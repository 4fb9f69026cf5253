//! Matrix products of row-major matrices, with either side transposed in place.
//!
//! The products run in the crate `gemm`, which packs its operands from any strides: no transposed copy is made. Its
//! blocking depends on the shapes and the caches alone and every number of the result is summed by one thread, so the
//! result does not depend on the number of threads.
//!
//! Products with a single row on the left (a token being generated) read the whole weight for little arithmetic; `gemm`
//! leaves them to one thread, so [`nt`] has a path of its own for them.
#![allow(unsafe_code)]

use crate::{
    check,
    lanes::{dispatch, dot},
    parallel,
};
use gemm::Parallelism;

/// What happens to the numbers that the result slice holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// They are overwritten, and may be anything, NaN included.
    Overwrite,
    /// The product is added to them.
    Add,
}

/// A matrix as `gemm` sees it: a slice, and the distances between neighbours.
struct Strided<'a> {
    slice: &'a [f32],
    between_rows: usize,
    between_columns: usize,
}

/// c = a bᵀ: `y = x Wᵀ`, a linear layer's forward product. `a [m, k]`, `b [n, k]`, `c [m, n]`.
///
/// # Panics
///
/// If a slice's length does not match its axes.
pub fn nt(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32], accumulate: Accumulate) {
    check::len("a [m, k]", a, m * k);
    check::len("b [n, k]", b, n * k);
    check::len("c [m, n]", c, m * n);
    if m == 1 && k > 0 {
        return row_times_transposed(k, a, b, c, accumulate);
    }
    let a = Strided {
        slice: a,
        between_rows: k,
        between_columns: 1,
    };
    let b = Strided {
        slice: b,
        between_rows: 1,
        between_columns: k,
    };
    product(m, n, k, a, b, c, accumulate);
}

/// c = a b: `dx = dy W`, the gradient of a linear layer's input. `a [m, k]`, `b [k, n]`, `c [m, n]`.
///
/// # Panics
///
/// If a slice's length does not match its axes.
pub fn nn(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32], accumulate: Accumulate) {
    check::len("a [m, k]", a, m * k);
    check::len("b [k, n]", b, k * n);
    check::len("c [m, n]", c, m * n);
    let a = Strided {
        slice: a,
        between_rows: k,
        between_columns: 1,
    };
    let b = Strided {
        slice: b,
        between_rows: n,
        between_columns: 1,
    };
    product(m, n, k, a, b, c, accumulate);
}

/// c = aᵀ b: `dW = dyᵀ x`, the gradient of a linear layer's weight. `a [k, m]`, `b [k, n]`, `c [m, n]`.
///
/// # Panics
///
/// If a slice's length does not match its axes.
pub fn tn(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32], accumulate: Accumulate) {
    check::len("a [k, m]", a, k * m);
    check::len("b [k, n]", b, k * n);
    check::len("c [m, n]", c, m * n);
    let a = Strided {
        slice: a,
        between_rows: 1,
        between_columns: m,
    };
    let b = Strided {
        slice: b,
        between_rows: n,
        between_columns: 1,
    };
    product(m, n, k, a, b, c, accumulate);
}

fn product(m: usize, n: usize, k: usize, a: Strided<'_>, b: Strided<'_>, c: &mut [f32], accumulate: Accumulate) {
    if m == 0 || n == 0 {
        return;
    }
    let last = |x: &Strided<'_>, rows: usize, columns: usize| {
        rows.saturating_sub(1) * x.between_rows + columns.saturating_sub(1) * x.between_columns
    };
    assert!(k == 0 || last(&a, m, k) < a.slice.len(), "left side of a product");
    assert!(k == 0 || last(&b, k, n) < b.slice.len(), "right side of a product");
    assert!(c.len() == m * n, "result of a product");
    // SAFETY: the strides address numbers of the two slices only, as just asserted, and of `c`, which is dense row-major
    // and exclusively borrowed. `read_dst` is false when `c` is to be overwritten.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            accumulate == Accumulate::Add,
            a.slice.as_ptr(),
            a.between_columns as isize,
            a.between_rows as isize,
            b.slice.as_ptr(),
            b.between_columns as isize,
            b.between_rows as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}

/// c = a bᵀ with one row in `a`: a dot product for each row of `b`, rows shared out among the threads.
fn row_times_transposed(k: usize, a: &[f32], b: &[f32], c: &mut [f32], accumulate: Accumulate) {
    let rows = (2 * parallel::PIECE / k).max(1);
    parallel::for_each_piece(c, rows, |first, c| {
        dispatch(
            #[inline(always)]
            || {
                for (c, row) in c.iter_mut().zip(b[first * k..].chunks_exact(k)) {
                    let sum = dot(a, row);
                    *c = match accumulate {
                        Accumulate::Overwrite => sum,
                        Accumulate::Add => *c + sum,
                    };
                }
            },
        );
    });
}

#[cfg(test)]
mod tests;
