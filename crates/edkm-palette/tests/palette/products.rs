//! Products against the definition in f64, and against each other.

use crate::common::{Parts, SplitMix};
use edkm_palette::PaletteSpec;
use proptest::prelude::*;

/// `y = x W^T` and the sum of magnitudes in each, in f64.
fn reference(weights: &[f32], x: &[f32], rows: usize, cols: usize) -> Vec<(f64, f64)> {
    x.chunks_exact(cols)
        .flat_map(|x| {
            (0..rows).map(move |row| {
                let terms = weights[row * cols..][..cols]
                    .iter()
                    .zip(x)
                    .map(|(&w, &x)| f64::from(w) * f64::from(x));
                terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
            })
        })
        .collect()
}

/// A sum of n rounded terms in blocks of b errs by at most (b + n/b + 2) half units of the sum of magnitudes.
fn tolerance(cols: usize, size: f64) -> f64 {
    (256.min(cols) + cols / 256 + 2) as f64 * f64::from(f32::EPSILON) / 2.0 * size
}

fn check(parts: &Parts, m: usize, seed: u64) -> Result<(), TestCaseError> {
    let (rows, cols) = (parts.rows, parts.cols);
    let matrix = parts.pack();
    let x = SplitMix(seed).vector(m * cols);
    let expected = reference(&parts.weights(&matrix), &x, rows, cols);

    let mut y = vec![f32::NAN; m * rows];
    matrix.matmul(&x, m, &mut y).unwrap();
    for (i, (&got, &(sum, size))) in y.iter().zip(&expected).enumerate() {
        let diff = (f64::from(got) - sum).abs();
        prop_assert!(diff <= tolerance(cols, size), "matmul: y[{i}] = {got}, expected {sum}");
    }
    for (input, (x, y)) in x.chunks_exact(cols).zip(y.chunks_exact(rows)).enumerate() {
        let mut single = vec![f32::NAN; rows];
        matrix.matvec(x, &mut single).unwrap();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&single), bits(y), "input {} alone gives other bits", input);
    }
    Ok(())
}

proptest! {
    #[test]
    fn products_agree_with_f64(parts in crate::common::parts(), m in 1usize..=20, seed: u64) {
        check(&parts, m, seed)?;
    }
}

/// Large enough to run in parallel, with tiles and blocks that are not full.
#[test]
fn parallel_products_agree_with_f64() {
    for bits in 1..=8 {
        check(&Parts::random(333, 1111, PaletteSpec::new(bits), true, 5), 3, 6).unwrap();
    }
}

#[test]
fn products_do_not_depend_on_threads() {
    let matrix = Parts::random(700, 600, PaletteSpec::new(3), false, 1).pack();
    let x = SplitMix(2).vector(600);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut y = vec![f32::NAN; 700];
        pool.install(|| matrix.matvec(&x, &mut y)).unwrap();
        y
    };
    let one = run(1);
    assert!(one.iter().any(|&y| y != 0.0));
    for threads in [2, 3, 7] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}
