//! A product of small matrices that lie in the cache: a few rows of the left side against one or two vectors of the right
//! side, summed in registers.

use crate::matmul::Accumulate;
use pulp::{Arch, Simd, WithSimd};

/// Numbers that a row of the right side must hold a multiple of: the widest vector.
pub(crate) const ALIGN: usize = 16;

/// Rows of a slice: number (i, j) is `slice[i * stride + j]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) slice: &'a [f32],
    pub(crate) stride: usize,
}

impl<'a> Matrix<'a> {
    pub(crate) fn new(slice: &'a [f32], stride: usize) -> Self {
        Matrix { slice, stride }
    }
}

/// The left side of a product.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// As it is stored.
    Rows(Matrix<'a>),
    /// The transpose of what is stored.
    Columns(Matrix<'a>),
}

/// c `[m, n]` = a `[m, k]` b `[k, n]`, or added to c, whose rows lie `c_stride` apart. n is a multiple of [`ALIGN`].
///
/// Every number of c is summed in the order of k by fused multiply-adds, whatever the width of the vectors.
pub(crate) fn product(
    (m, n, k): (usize, usize, usize),
    a: Left<'_>,
    b: Matrix<'_>,
    c: &mut [f32],
    c_stride: usize,
    accumulate: Accumulate,
) {
    debug_assert!(n.is_multiple_of(ALIGN));
    Arch::new().dispatch(Product {
        m,
        n,
        k,
        a,
        b,
        c,
        c_stride,
        accumulate,
    });
}

struct Product<'a> {
    m: usize,
    n: usize,
    k: usize,
    a: Left<'a>,
    b: Matrix<'a>,
    c: &'a mut [f32],
    c_stride: usize,
    accumulate: Accumulate,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut column = 0;
        while column < self.n {
            let vectors = ((self.n - column) / S::F32_LANES).min(2);
            let mut row = 0;
            while row < self.m {
                // Six rows by two vectors: twelve sums, which fit the sixteen registers of AVX2 with their operands, and
                // hide the latency of a multiply-add wherever two start in a cycle.
                let rows = (self.m - row).min(6);
                match (rows, vectors) {
                    (6, 2) => self.block::<S, 6, 2>(simd, row, column),
                    (5, 2) => self.block::<S, 5, 2>(simd, row, column),
                    (4, 2) => self.block::<S, 4, 2>(simd, row, column),
                    (3, 2) => self.block::<S, 3, 2>(simd, row, column),
                    (2, 2) => self.block::<S, 2, 2>(simd, row, column),
                    (1, 2) => self.block::<S, 1, 2>(simd, row, column),
                    (6, _) => self.block::<S, 6, 1>(simd, row, column),
                    (5, _) => self.block::<S, 5, 1>(simd, row, column),
                    (4, _) => self.block::<S, 4, 1>(simd, row, column),
                    (3, _) => self.block::<S, 3, 1>(simd, row, column),
                    (2, _) => self.block::<S, 2, 1>(simd, row, column),
                    (_, _) => self.block::<S, 1, 1>(simd, row, column),
                }
                row += rows;
            }
            column += vectors * S::F32_LANES;
        }
    }
}

impl Product<'_> {
    /// R rows from `row` on, V vectors from `column` on.
    #[expect(
        clippy::needless_range_loop,
        reason = "iterators would take the address of the sums: out of the registers"
    )]
    #[inline(always)]
    fn block<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, row: usize, column: usize) {
        let right = Matrix::new(&self.b.slice[column..], self.b.stride);
        let k = self.k;
        let sums: [[S::f32s; V]; R] = match self.a {
            Left::Rows(Matrix { slice, stride }) => {
                let rows: [&[f32]; R] = std::array::from_fn(|r| &slice[(row + r) * stride..][..k]);
                sums(simd, k, |p| std::array::from_fn(|r| rows[r][p]), right)
            }
            Left::Columns(Matrix { slice, stride }) => {
                let slice = &slice[row..];
                let column = |p: usize| {
                    *slice[p * stride..]
                        .first_chunk::<R>()
                        .expect("a column of the left side")
                };
                sums(simd, k, column, right)
            }
        };
        for r in 0..R {
            let c = &mut self.c[(row + r) * self.c_stride + column..][..V * S::F32_LANES];
            let c = S::as_mut_simd_f32s(c).0;
            for v in 0..V {
                c[v] = match self.accumulate {
                    Accumulate::Overwrite => sums[r][v],
                    Accumulate::Add => simd.add_f32s(c[v], sums[r][v]),
                };
            }
        }
    }
}

/// Sum over p of `left(p)` times row p of the right side.
#[inline(always)]
fn sums<S: Simd, const R: usize, const V: usize>(
    simd: S,
    k: usize,
    left: impl Fn(usize) -> [f32; R],
    right: Matrix<'_>,
) -> [[S::f32s; V]; R] {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for (p, right) in right.slice.chunks(right.stride).take(k).enumerate() {
        let left = left(p);
        let right = S::as_simd_f32s(&right[..V * S::F32_LANES]).0;
        for r in 0..R {
            let a = simd.splat_f32s(left[r]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_f32s(a, right[v], sums[r][v]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, random};

    /// One to seven rows left over from six, one and several vectors, with room between the rows of each side.
    #[test]
    fn agrees_with_the_definition() {
        for (m, n, k) in [
            (1, 16, 1),
            (6, 32, 8),
            (13, 48, 5),
            (64, 64, 128),
            (5, 80, 3),
            (64, 16, 64),
        ] {
            let (b_stride, c_stride) = (n + 4, n + 7);
            let (a, b, before) = (
                random(1, (m + 3) * (k + 3)),
                random(2, k * b_stride),
                random(3, m * c_stride),
            );
            for left in [
                Left::Rows(Matrix::new(&a, k + 3)),
                Left::Columns(Matrix::new(&a, m + 2)),
            ] {
                for accumulate in [Accumulate::Overwrite, Accumulate::Add] {
                    let mut c = before.clone();
                    product((m, n, k), left, Matrix::new(&b, b_stride), &mut c, c_stride, accumulate);
                    let expected = |at: usize| -> f64 {
                        let (i, j, before) = (at / c_stride, at % c_stride, f64::from(before[at]));
                        let a = |p: usize| match left {
                            Left::Rows(a) => a.slice[i * a.stride + p],
                            Left::Columns(a) => a.slice[p * a.stride + i],
                        };
                        let sum = || {
                            (0..k)
                                .map(|p| f64::from(a(p)) * f64::from(b[p * b_stride + j]))
                                .sum::<f64>()
                        };
                        match accumulate {
                            _ if j >= n => before,
                            Accumulate::Overwrite => sum(),
                            Accumulate::Add => before + sum(),
                        }
                    };
                    let expected: Vec<f64> = (0..c.len()).map(expected).collect();
                    // Sums of up to 128 products, whose partial sums reach about 10.
                    assert_close("product", &c, &expected, 1e-5);
                }
            }
        }
    }
}
