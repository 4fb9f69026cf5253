//! Tiles of scores and the small products between them.

use crate::matmul::Accumulate;
use pulp::{Arch, Simd, WithSimd};

/// Queries in a tile.
pub(super) const QUERIES: usize = 64;
/// Keys in a tile. As many as queries: then only tiles on the diagonal are cut by it.
pub(super) const KEYS: usize = QUERIES;
/// Rows of right sides and results are whole multiples of this, the widest vector.
pub(super) const ALIGN: usize = 16;

/// One number for each query of a tile.
pub(super) type PerQuery = [f32; QUERIES];

/// The left side of a product: number (i, p) is `slice[i * between_rows + p * between_columns]`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) slice: &'a [f32],
    pub(super) between_rows: usize,
    pub(super) between_columns: usize,
}

/// c `[m, n]` = a `[m, k]` b `[k, n]`, or added to c. n is a multiple of [`ALIGN`].
///
/// Every number of c is summed in the order of k by fused multiply-adds, for any vector width.
pub(super) fn product(m: usize, n: usize, k: usize, a: Left<'_>, b: &[f32], c: &mut [f32], accumulate: Accumulate) {
    debug_assert!(n.is_multiple_of(ALIGN) && b.len() >= k * n && c.len() >= m * n);
    Arch::new().dispatch(Product {
        m,
        n,
        k,
        a,
        b,
        c,
        accumulate,
    });
}

struct Product<'a> {
    m: usize,
    n: usize,
    k: usize,
    a: Left<'a>,
    b: &'a [f32],
    c: &'a mut [f32],
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
                // Six rows by two vectors: twelve sums, which fill the sixteen registers of AVX2 and hide the latency of
                // a multiply-add everywhere.
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
    #[inline(always)]
    fn block<S: Simd, const ROWS: usize, const VECTORS: usize>(&mut self, simd: S, row: usize, column: usize) {
        let width = VECTORS * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        let left: [&[f32]; ROWS] = std::array::from_fn(|r| &self.a.slice[(row + r) * self.a.between_rows..]);
        for p in 0..self.k {
            let right = S::as_simd_f32s(&self.b[p * self.n + column..][..width]).0;
            for r in 0..ROWS {
                let a = simd.splat_f32s(left[r][p * self.a.between_columns]);
                for v in 0..VECTORS {
                    sums[r][v] = simd.mul_add_f32s(a, right[v], sums[r][v]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let result = S::as_mut_simd_f32s(&mut self.c[(row + r) * self.n + column..][..width]).0;
            for (result, &sum) in result.iter_mut().zip(sums) {
                *result = match self.accumulate {
                    Accumulate::Overwrite => sum,
                    Accumulate::Add => simd.add_f32s(*result, sum),
                };
            }
        }
    }
}

/// Masks the keys after each query in a tile on the diagonal: scores `[KEYS, QUERIES]`.
pub(super) fn mask_diagonal(scores: &mut [PerQuery], masked: f32) {
    for (key, row) in scores.iter_mut().enumerate() {
        row[..key].fill(masked);
    }
}

/// to `[D, QUERIES]` = `scale` x the transpose of rows of D numbers, `stride` apart; queries beyond `count` become 0.
pub(super) fn pack_transposed(from: &[f32], stride: usize, count: usize, scale: f32, to: &mut [PerQuery]) {
    for (d, to) in to.iter_mut().enumerate() {
        for (q, to) in to[..count].iter_mut().enumerate() {
            *to = from[q * stride + d] * scale;
        }
        to[count..].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, random};

    #[test]
    fn product_agrees_with_the_definition() {
        for (m, n, k) in [
            (1, 16, 1),
            (6, 32, 8),
            (13, 48, 5),
            (64, 64, 128),
            (5, 80, 3),
            (64, 16, 64),
        ] {
            for (between_rows, between_columns) in [(k + 3, 1), (1, m + 2)] {
                let (a, b, before) = (random(1, (m + 3) * (k + 3)), random(2, k * n), random(3, m * n));
                let left = Left {
                    slice: &a,
                    between_rows,
                    between_columns,
                };
                let expected = |i: usize, j: usize| -> f64 {
                    (0..k)
                        .map(|p| f64::from(a[i * between_rows + p * between_columns]) * f64::from(b[p * n + j]))
                        .sum()
                };
                let mut c = before.clone();
                product(m, n, k, left, &b, &mut c, Accumulate::Add);
                let added: Vec<f64> = (0..m * n)
                    .map(|i| expected(i / n, i % n) + f64::from(before[i]))
                    .collect();
                // Sums of up to 128 products, whose partial sums reach about 10.
                assert_close("added", &c, &added, 1e-5);
                c.fill(f32::NAN);
                product(m, n, k, left, &b, &mut c, Accumulate::Overwrite);
                let product: Vec<f64> = (0..m * n).map(|i| expected(i / n, i % n)).collect();
                assert_close("overwritten", &c, &product, 1e-5);
            }
        }
    }
}
