//! The palette that fits an assignment best.
//!
//! With the assignment held, the outputs' squared error is a quadratic form in the palette's numbers c: sum over rows of (w - Aᵀ c)ᵀ H (w - Aᵀ c), where A
//! `[K d, I]` has a one where an input takes an entry. Its minimum solves M c = b with M = sum A H Aᵀ and b = sum A H w. An alternation of this
//! and an assignment is Lloyd's algorithm with H for a norm (as GPTVQ, arXiv 2402.15319, does for vectors).

use rayon::prelude::*;

use super::cholesky::solve;
use super::quantize::Problem;

/// The pull of an entry towards where it was, as a part of the mean of M's diagonal: it holds entries that no weight takes.
const PULL: f64 = 1e-6;

/// Palettes `[groups, K, d]` for the assignment `indices`; that of a group whose equations have no solution in numbers stays.
pub(super) fn refit(problem: &Problem<'_>, h_II: &[f64], palettes: &[f32], indices: &[u8]) -> Vec<f32> {
    let (cols, d) = (problem.shape.cols, problem.spec.dim());
    let group = problem.spec.grouping.rows_per_palette(problem.shape) * cols;
    let groups: Vec<_> = problem
        .weight_OI
        .chunks(group)
        .zip(indices.chunks(group / d))
        .zip(palettes.chunks(problem.palette_len()))
        .enumerate()
        .collect();
    groups
        .into_iter()
        .flat_map(|(index, ((weights, indices), palette))| {
            let first_row = index * group / cols;
            refit_group(problem, h_II, first_row, weights, indices, palette)
        })
        .collect()
}

/// M, b.
#[derive(Clone)]
struct Equations {
    m_CC: Vec<f64>,
    b_C: Vec<f64>,
}

impl Equations {
    fn new(unknowns: usize) -> Self {
        Self {
            m_CC: vec![0.0; unknowns * unknowns],
            b_C: vec![0.0; unknowns],
        }
    }

    fn add(mut self, other: &Self) -> Self {
        self.m_CC.iter_mut().zip(&other.m_CC).for_each(|(a, b)| *a += b);
        self.b_C.iter_mut().zip(&other.b_C).for_each(|(a, b)| *a += b);
        self
    }
}

/// Rows whose equations are summed in order, one task each, so that the sum does not depend on the number of threads.
const ROWS_TOGETHER: usize = 16;

fn refit_group(
    problem: &Problem<'_>,
    h_II: &[f64],
    first_row: usize,
    weights: &[f32],
    indices: &[u8],
    palette: &[f32],
) -> Vec<f32> {
    let (cols, d, unknowns) = (problem.shape.cols, problem.spec.dim(), problem.palette_len());
    let tiles: Vec<Equations> = weights
        .par_chunks(ROWS_TOGETHER * cols)
        .zip(indices.par_chunks(ROWS_TOGETHER * cols / d))
        .enumerate()
        .map(|(tile, (weights, indices))| {
            let mut equations = Equations::new(unknowns);
            let mut ah_CI = vec![0.0; unknowns * cols];
            let rows = weights.chunks(cols).zip(indices.chunks(cols / d));
            for (row, (weight_I, indices)) in (first_row + tile * ROWS_TOGETHER..).zip(rows) {
                let counts = problem.row_weight(row);
                add_row(problem, h_II, (weight_I, indices, counts), &mut ah_CI, &mut equations);
            }
            equations
        })
        .collect();
    let Equations { mut m_CC, mut b_C } = tiles.iter().fold(Equations::new(unknowns), |sum, tile| sum.add(tile));
    let mean = (0..unknowns).map(|c| m_CC[c * unknowns + c]).sum::<f64>() / unknowns as f64;
    let pull = (PULL * mean).max(f64::MIN_POSITIVE);
    for (c, &was) in palette.iter().enumerate() {
        m_CC[c * unknowns + c] += pull;
        b_C[c] += pull * f64::from(was);
    }
    if problem.spec.keep_zero == edkm_cluster::KeepZero::Exact {
        for (entry, _) in palette
            .chunks(d)
            .enumerate()
            .filter(|(_, entry)| entry.iter().all(|&c| c == 0.0))
        {
            pin_to_zero(&mut m_CC, &mut b_C, entry * d..(entry + 1) * d);
        }
    }
    match solve(&mut m_CC, &mut b_C) {
        Ok(()) if b_C.iter().all(|c| c.is_finite()) => b_C.into_iter().map(|c| c as f32).collect(),
        _ => palette.to_vec(),
    }
}

/// Adds A H Aᵀ and A H w of one row (its weights, their indices, what its error counts); `ah_CI` is scratch.
fn add_row(
    problem: &Problem<'_>,
    h_II: &[f64],
    (weight_I, indices, counts): (&[f32], &[u8], f64),
    ah_CI: &mut [f64],
    equations: &mut Equations,
) {
    let (n, d, unknowns) = (weight_I.len(), problem.spec.dim(), problem.palette_len());
    ah_CI.fill(0.0);
    for (i, h_I) in h_II.chunks(n).enumerate() {
        let c = usize::from(indices[i / d]) * d + i % d;
        ah_CI[c * n..(c + 1) * n]
            .iter_mut()
            .zip(h_I)
            .for_each(|(sum, h)| *sum += counts * h);
    }
    for (c, ah_I) in ah_CI.chunks(n).enumerate() {
        let m_C = &mut equations.m_CC[c * unknowns..(c + 1) * unknowns];
        for (j, ah) in ah_I.iter().enumerate() {
            m_C[usize::from(indices[j / d]) * d + j % d] += ah;
        }
        equations.b_C[c] += ah_I.iter().zip(weight_I).map(|(ah, &w)| ah * f64::from(w)).sum::<f64>();
    }
}

/// Makes the unknowns zero and takes them out of the other equations.
fn pin_to_zero(m_CC: &mut [f64], b_C: &mut [f64], unknowns: std::ops::Range<usize>) {
    let n = b_C.len();
    for c in unknowns {
        for j in 0..n {
            m_CC[c * n + j] = 0.0;
            m_CC[j * n + c] = 0.0;
        }
        m_CC[c * n + c] = 1.0;
        b_C[c] = 0.0;
    }
}
