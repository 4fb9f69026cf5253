use super::*;
use crate::testing::{assert_close, assert_same_for_any_pool, random};

type Kernel = fn(usize, usize, usize, &[f32], &[f32], &mut [f32], Accumulate);

/// A kernel under test: its function and the element (i, p) of its left and (p, j) of its right side.
struct Case {
    name: &'static str,
    kernel: Kernel,
    left: fn(usize, usize, usize, usize) -> usize,
    right: fn(usize, usize, usize, usize) -> usize,
}

// Arguments of the index functions: (row, column, rows, columns) of the matrix that takes part in the product.
const CASES: [Case; 4] = [
    Case {
        name: "nt",
        kernel: nt,
        left: |i, p, _, k| i * k + p,
        right: |p, j, k, _| j * k + p,
    },
    Case {
        name: "nt widened",
        kernel: |m, n, k, a, b, c, accumulate| {
            let before = c.to_vec();
            let widen = |rows: Range<usize>, columns: Range<usize>, out: &mut [f32]| {
                for (row, out) in rows.zip(out.chunks_exact_mut(columns.len())) {
                    out.copy_from_slice(&b[row * k..][columns.clone()]);
                }
            };
            nt_widened(m, n, k, a, widen, c);
            if accumulate == Accumulate::Add {
                c.iter_mut().zip(before).for_each(|(c, before)| *c += before);
            }
        },
        left: |i, p, _, k| i * k + p,
        right: |p, j, k, _| j * k + p,
    },
    Case {
        name: "nn",
        kernel: nn,
        left: |i, p, _, k| i * k + p,
        right: |p, j, _, n| p * n + j,
    },
    Case {
        name: "tn",
        kernel: tn,
        left: |i, p, m, _| p * m + i,
        right: |p, j, _, n| p * n + j,
    },
];

/// Sizes on both sides of tiles (6, 16, 64), of the dot-product and vector paths (m or n of 1), and of the threading
/// threshold, and rows long enough to be transposed here.
const SIZES: [(usize, usize, usize); 15] = [
    (1, 1, 1),
    (1, 7, 3),
    (5, 1, 9),
    (1, 300, 517),
    (300, 1, 517),
    (2, 65, 33),
    (3, 2, 1),
    (17, 16, 64),
    (64, 64, 300),
    (65, 63, 31),
    (130, 97, 129),
    (33, 257, 600),
    (256, 192, 64),
    (515, 130, 768),
    (7, 257, 1100),
];

#[test]
fn agree_with_the_definition() {
    for case in &CASES {
        for (m, n, k) in SIZES {
            let a = random(1, m * k);
            let b = random(2, k * n);
            let before = random(3, m * n);
            let mut product = vec![0.0f64; m * n];
            for i in 0..m {
                for j in 0..n {
                    product[i * n + j] = (0..k)
                        .map(|p| f64::from(a[(case.left)(i, p, m, k)]) * f64::from(b[(case.right)(p, j, k, n)]))
                        .sum();
                }
            }
            // Rounding of a sum of k products of numbers below 1.
            let tolerance = 1e-6 * (k as f64).sqrt().max(4.0);
            let mut c = vec![f32::NAN; m * n];
            (case.kernel)(m, n, k, &a, &b, &mut c, Accumulate::Overwrite);
            assert_close(&format!("{} {m} {n} {k}", case.name), &c, &product, tolerance);

            let mut c = before.clone();
            (case.kernel)(m, n, k, &a, &b, &mut c, Accumulate::Add);
            let sum: Vec<f64> = product.iter().zip(&before).map(|(p, &c)| p + f64::from(c)).collect();
            assert_close(&format!("{} {m} {n} {k} added", case.name), &c, &sum, tolerance);
        }
    }
}

#[test]
fn nothing_to_sum_gives_zero() {
    let mut c = vec![f32::NAN; 6];
    nt(2, 3, 0, &[], &[], &mut c, Accumulate::Overwrite);
    assert_eq!(c, [0.0; 6]);
    nt(0, 3, 4, &[], &[0.0; 12], &mut [], Accumulate::Overwrite);
    c.fill(f32::NAN);
    nt_widened(2, 3, 0, &[], |_, _, _| (), &mut c);
    assert_eq!(c, [0.0; 6]);
}

#[test]
fn do_not_depend_on_the_number_of_threads() {
    for case in &CASES {
        // The last ones are deep, thin, and wide: where a matrix library may be tempted to split the sum.
        for (m, n, k) in SIZES
            .into_iter()
            .chain([(64, 64, 4096), (8, 512, 2048), (700, 48, 1030), (40, 2100, 333)])
        {
            let a = random(4, m * k);
            let b = random(5, k * n);
            assert_same_for_any_pool(&format!("{} {m} {n} {k}", case.name), || {
                let mut c = vec![0.0; m * n];
                (case.kernel)(m, n, k, &a, &b, &mut c, Accumulate::Overwrite);
                (case.kernel)(m, n, k, &a, &b, &mut c, Accumulate::Add);
                c
            });
        }
    }
}

#[test]
#[should_panic(expected = "`b [n, k]` holds 5 numbers where the shapes call for 6")]
fn a_wrong_length_is_named() {
    nt(1, 2, 3, &[0.0; 3], &[0.0; 5], &mut [0.0; 2], Accumulate::Overwrite);
}
