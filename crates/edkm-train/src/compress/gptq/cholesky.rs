//! Cholesky factors in f64.

use edkm_kernels::lanes::dispatch;
use rayon::prelude::*;

/// Rows that are finished together before the rest of the matrix is brought up to date.
const PANEL: usize = 48;

/// Columns of a row that stay in registers while a panel is subtracted.
const COLUMNS: usize = 32;

/// Overwrites the upper triangle of the symmetric `a` `[n, n]` with U, where a = Uᵀ U. The lower triangle is not read, and left as it was.
/// The same for any number of threads.
///
/// # Errors
/// The row at which the matrix turns out not to be positive definite.
pub(super) fn cholesky(a: &mut [f64], n: usize) -> Result<(), usize> {
    for first in (0..n).step_by(PANEL) {
        let (panel, rest) = a[first * n..].split_at_mut(PANEL.min(n - first) * n);
        let rows = panel.len() / n;
        for k in 0..rows {
            let (done, row) = panel.split_at_mut(k * n);
            let (column, row) = (first + k, &mut row[..n]);
            subtract_rows(row, column, done);
            let pivot = row[column];
            // fails on NaN too
            if !(pivot > 0.0 && pivot.is_finite()) {
                return Err(column);
            }
            let scale = 1.0 / pivot.sqrt();
            row[column..].iter_mut().for_each(|x| *x *= scale);
        }
        rest.par_chunks_exact_mut(n)
            .enumerate()
            .for_each(|(i, row)| subtract_rows(row, first + rows + i, panel));
    }
    Ok(())
}

/// Subtracts each of the `done` rows, times its number at `column`, from `row`, from `column` on.
fn subtract_rows(row: &mut [f64], column: usize, done: &[f64]) {
    let n = row.len();
    let (blocks, rest) = row[column..].as_chunks_mut::<COLUMNS>();
    let first_of_rest = n - rest.len();
    dispatch(
        #[inline(always)]
        || {
            for (block, x) in blocks.iter_mut().enumerate() {
                let first = column + block * COLUMNS;
                let mut left = *x;
                for done in done.chunks_exact(n) {
                    let factor = done[column];
                    for (x, y) in left.iter_mut().zip(&done[first..first + COLUMNS]) {
                        *x -= factor * y;
                    }
                }
                *x = left;
            }
            for done in done.chunks_exact(n) {
                subtract(rest, done[column], &done[first_of_rest..]);
            }
        },
    );
}

/// x -= factor * y
#[inline(always)]
fn subtract(x: &mut [f64], factor: f64, y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x -= factor * y);
}

/// Solves a x = b for the positive definite `a` `[n, n]`, which is overwritten.
///
/// # Errors
/// As [`cholesky`].
pub(super) fn solve(a: &mut [f64], b: &mut [f64]) -> Result<(), usize> {
    let n = b.len();
    cholesky(a, n)?;
    // Uᵀ y = b, then U x = y
    for i in 0..n {
        b[i] /= a[i * n + i];
        let (solved, rest) = b.split_at_mut(i + 1);
        subtract(rest, solved[i], &a[i * n + i + 1..(i + 1) * n]);
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| a[i * n + j] * b[j]).sum();
        b[i] = (b[i] - known) / a[i * n + i];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A positive definite matrix: xᵀ x + 1 of pseudo-random x.
    fn definite(n: usize) -> Vec<f64> {
        let x: Vec<f64> = (0..n * n).map(|i| ((i * 7919 % 1009) as f64 / 504.5) - 1.0).collect();
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                a[i * n + j] = (0..n).map(|k| x[k * n + i] * x[k * n + j]).sum::<f64>() + f64::from(u8::from(i == j));
            }
        }
        a
    }

    #[test]
    fn the_factor_times_itself_is_the_matrix() {
        for n in [1, 2, PANEL - 1, PANEL, PANEL + 1, 2 * PANEL + 5] {
            let a = definite(n);
            let mut u = a.clone();
            cholesky(&mut u, n).unwrap();
            for i in 0..n {
                for j in i..n {
                    let product: f64 = (0..=i).map(|k| u[k * n + i] * u[k * n + j]).sum();
                    // entries of order n, sums of n terms
                    assert!(
                        (product - a[i * n + j]).abs() < 1e-13 * (n * n + 10) as f64,
                        "{n}: {i} {j}"
                    );
                }
            }
            let x: Vec<f64> = (0..n).map(|i| i as f64 - 1.5).collect();
            let mut b: Vec<f64> = a
                .chunks(n)
                .map(|row| row.iter().zip(&x).map(|(a, x)| a * x).sum())
                .collect();
            solve(&mut a.clone(), &mut b).unwrap();
            // the condition number is below n^2
            assert!(b.iter().zip(&x).all(|(b, x)| (b - x).abs() < 1e-9), "{n}");
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_is_named_by_row() {
        assert_eq!(cholesky(&mut [1.0, 2.0, 2.0, 1.0], 2), Err(1));
        assert_eq!(cholesky(&mut [f64::NAN], 1), Err(0));
        assert_eq!(cholesky(&mut [0.0], 1), Err(0));
    }
}
