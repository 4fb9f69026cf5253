//! Matrix products of row-major matrices, with either side transposed in place.
//!
//! The products run in the crate `gemm`, which packs its operands from any strides: no transposed copy of a matrix is made.
//! Where `gemm` packs slowly, [`nt`] with long rows, tiles are transposed here before it sees them. A product with a single
//! row on the left (a token being generated) reads the whole weight for little arithmetic; `gemm` leaves that to one
//! thread, so [`nt`] has a path of its own for it.
//!
//! Pieces of work and blocking depend on the shapes (and the caches of the machine) alone, and every number of the result
//! is summed by one thread in one order: the result does not depend on the number of threads.
#![allow(unsafe_code)]

use crate::{
    check,
    disjoint::DisjointRows,
    lanes::{dispatch, dot},
    parallel, scratch,
    transpose::Transposed,
};
use gemm::Parallelism;
use rayon::prelude::*;
use std::ops::Range;

/// What happens to the numbers that the result slice holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// They are overwritten, and may be anything, NaN included.
    Overwrite,
    /// The product is added to them.
    Add,
}

/// c = a bᵀ: `y = x Wᵀ`, a linear layer's forward product. `a [m, k]`, `b [n, k]`, `c [m, n]`.
///
/// # Panics
///
/// If a slice's length does not match its axes.
pub fn nt(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32], accumulate: Accumulate) {
    check::len("a [m, k]", a, m.saturating_mul(k));
    check::len("b [n, k]", b, n.saturating_mul(k));
    check::len("c [m, n]", c, m.saturating_mul(n));
    if m == 1 && k > 0 {
        row_times_transposed(k, a, b, c, accumulate);
    } else if k >= LONG_ROW {
        by_transposed_tiles(m, n, k, a, &Rows { b, k }, c, accumulate);
    } else {
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
}

/// c = a bᵀ for a `b` of another type: `widen` writes the numbers of some of its rows, in some of its columns, `[rows, columns]`.
/// `a [m, k]`, `b [n, k]`, `c [m, n]`. A part of `b` is asked for once for each 512 rows of `a`, by the thread that multiplies it.
///
/// `widen` must not call into the thread pool.
///
/// Memory: 1 MiB for each thread.
///
/// # Panics
///
/// If a slice's length does not match its axes.
pub fn nt_widened(
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    widen: impl Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync,
    c: &mut [f32],
) {
    check::len("a [m, k]", a, m.saturating_mul(k));
    check::len("c [m, n]", c, m.saturating_mul(n));
    if k == 0 {
        return c.fill(0.0);
    }
    by_transposed_tiles(m, n, k, a, &Widened(widen), c, Accumulate::Overwrite);
}

/// c = a b: `dx = dy W`, the gradient of a linear layer's input. `a [m, k]`, `b [k, n]`, `c [m, n]`.
///
/// # Panics
///
/// If a slice's length does not match its axes.
pub fn nn(m: usize, n: usize, k: usize, a: &[f32], b: &[f32], c: &mut [f32], accumulate: Accumulate) {
    check::len("a [m, k]", a, m.saturating_mul(k));
    check::len("b [k, n]", b, k.saturating_mul(n));
    check::len("c [m, n]", c, m.saturating_mul(n));
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
    check::len("a [k, m]", a, k.saturating_mul(m));
    check::len("b [k, n]", b, k.saturating_mul(n));
    check::len("c [m, n]", c, m.saturating_mul(n));
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

/// A matrix as `gemm` sees it: a slice, and the distances between neighbours.
#[derive(Clone, Copy)]
struct Strided<'a> {
    slice: &'a [f32],
    between_rows: usize,
    between_columns: usize,
}

impl Strided<'_> {
    /// Whether every number of a matrix of this size lies in the slice.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        let last = |count: usize, between: usize| count.saturating_sub(1).saturating_mul(between);
        rows == 0
            || columns == 0
            || last(rows, self.between_rows).saturating_add(last(columns, self.between_columns)) < self.slice.len()
    }
}

fn product(m: usize, n: usize, k: usize, a: Strided<'_>, b: Strided<'_>, c: &mut [f32], accumulate: Accumulate) {
    if c.is_empty() {
        return;
    }
    assert!(c.len() == m.saturating_mul(n), "result of a product");
    // SAFETY: c is dense, of the size just asserted, and borrowed exclusively.
    unsafe { call_gemm(m, n, k, a, b, c.as_mut_ptr(), n, accumulate, Parallelism::Rayon(0)) }
}

/// # Safety
///
/// `c` must point to `m` rows of `n` numbers, `between_rows_of_c` apart, that nobody else uses meanwhile. They need not be
/// initialised to be overwritten.
unsafe fn call_gemm(
    m: usize,
    n: usize,
    k: usize,
    a: Strided<'_>,
    b: Strided<'_>,
    c: *mut f32,
    between_rows_of_c: usize,
    accumulate: Accumulate,
    parallelism: Parallelism,
) {
    assert!(a.holds(m, k) && b.holds(k, n), "operands of a product");
    // SAFETY: the strides address numbers of the two slices only, as just asserted, and numbers of c that the caller gave;
    // c is not read when it is to be overwritten.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            1,
            between_rows_of_c as isize,
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
            parallelism,
        );
    }
}

/// Depth from which [`nt`] transposes the right side itself. The packing of `gemm` reads many rows at once, number by
/// number; rows that lie kilobytes apart then evict each other from the first-level cache. (512 x 4096 x 4096: 80 GFLOP/s
/// with its packing, 98 with ours, one core of an EPYC 9004.)
const LONG_ROW: usize = 768;
/// A tile of c is summed by one thread, over transposed tiles of b of this depth: half a megabyte, which stays in the
/// second-level cache.
const TILE_ROWS: usize = 512;
const TILE_COLUMNS: usize = 128;
const TILE_DEPTH: usize = 1024;

/// The right side of a product by transposed tiles: b.
trait Right: Sync {
    /// Whether [`transpose`](Self::transpose) needs room for the tile besides.
    const SPARE: bool;

    /// Writes some columns of some rows to `to`, transposed: `[columns, rows]`.
    fn transpose(&self, rows: Range<usize>, columns: Range<usize>, spare: &mut [f32], to: &mut [f32]);
}

/// Plain rows of `k` numbers.
struct Rows<'a> {
    b: &'a [f32],
    k: usize,
}

impl Right for Rows<'_> {
    const SPARE: bool = false;

    fn transpose(&self, rows: Range<usize>, columns: Range<usize>, _: &mut [f32], to: &mut [f32]) {
        Transposed {
            from: &self.b[rows.start * self.k + columns.start..],
            stride: self.k,
            width: rows.len(),
            depth: columns.len(),
        }
        .write(to, rows.len());
    }
}

/// Rows that a function writes, see [`nt_widened`].
struct Widened<F>(F);

impl<F: Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync> Right for Widened<F> {
    const SPARE: bool = true;

    fn transpose(&self, rows: Range<usize>, columns: Range<usize>, spare: &mut [f32], to: &mut [f32]) {
        let (width, depth) = (rows.len(), columns.len());
        let from = &mut spare[..width * depth];
        self.0(rows, columns, from);
        let from = &*from;
        Transposed {
            from,
            stride: depth,
            width,
            depth,
        }
        .write(to, width);
    }
}

/// c = a bᵀ by tiles of c, for each of which the rows of b are transposed, a tile at a time.
fn by_transposed_tiles(m: usize, n: usize, k: usize, a: &[f32], b: &impl Right, c: &mut [f32], accumulate: Accumulate) {
    let c = DisjointRows::new(c);
    // Tiles with the same rows of b follow each other, while these are in the third-level cache.
    let (down, across) = (m.div_ceil(TILE_ROWS), n.div_ceil(TILE_COLUMNS));
    (0..down * across).into_par_iter().with_max_len(1).for_each(|tile| {
        let rows = tile % down * TILE_ROWS..m.min((tile % down + 1) * TILE_ROWS);
        let columns = tile / down * TILE_COLUMNS..n.min((tile / down + 1) * TILE_COLUMNS);
        // SAFETY: tiles do not overlap.
        unsafe { transposed_tile(n, k, a, b, &c, rows, columns, accumulate) }
    });
}

/// # Safety
///
/// Nobody else may use the numbers of c in `rows` and `columns` meanwhile.
unsafe fn transposed_tile<R: Right>(
    n: usize,
    k: usize,
    a: &[f32],
    b: &R,
    c: &DisjointRows<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
    mut accumulate: Accumulate,
) {
    let width = columns.len();
    // SAFETY: the rows of the tile, of which the caller has exclusive use.
    let c = unsafe { c.strided(rows.start * n + columns.start, rows.len(), width, n) };
    let size = TILE_DEPTH.min(k) * width;
    scratch::with([size, if R::SPARE { size } else { 0 }], |[buffer, spare]| {
        for p in (0..k).step_by(TILE_DEPTH) {
            let depth = TILE_DEPTH.min(k - p);
            b.transpose(columns.clone(), p..p + depth, spare, buffer);
            let a = Strided {
                slice: &a[rows.start * k + p..],
                between_rows: k,
                between_columns: 1,
            };
            let b = Strided {
                slice: buffer,
                between_rows: width,
                between_columns: 1,
            };
            // SAFETY: `strided` has checked that the rows lie in c.
            unsafe { call_gemm(rows.len(), width, depth, a, b, c, n, accumulate, Parallelism::None) };
            accumulate = Accumulate::Add;
        }
    });
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
