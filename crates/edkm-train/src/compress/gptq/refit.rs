//! The palette that fits an assignment best.
//!
//! With the assignment held, the outputs' squared error is a quadratic form in the palette's numbers c: sum over rows of (w - Aᵀ c)ᵀ H (w - Aᵀ c), where A
//! `[K d, I]` has a one where an input takes an entry. Its minimum solves M c = b with M = sum A H Aᵀ and b = sum A H w. An alternation of this
//! and an assignment is Lloyd's algorithm with H for a norm (as GPTVQ, arXiv 2402.15319, does for vectors).

use edkm_cluster::KeepZero;
use edkm_kernels::lanes::dispatch;
use rayon::prelude::*;

use super::cholesky::solve;
use super::quantize::Problem;

/// The pull of an entry towards where it was, as a part of the mean of M's diagonal: it holds entries that no weight takes.
const PULL: f64 = 1e-6;

/// Rows that go through H together, so that it is read once for all of them.
const ROWS_TOGETHER: usize = 16;

/// Columns of a block of H.
const WIDTH: usize = 32;

/// Rows of a block of H, which so takes 16 KiB and stays in the first-level cache while all rows of the weight go through it.
const DEPTH: usize = 64;

/// Bytes of A H of the rows that go through a block, which are to stay in the second-level cache.
const SUMS_BYTES: usize = 1 << 19;

/// Sums over rows that are made at once for a palette, at most, and their bytes.
const PARTS: usize = 64;
const PARTS_BYTES: usize = 1 << 26;

/// Palettes `[groups, K, d]` for the assignment `indices`; that of a group whose equations have no solution in numbers stays.
///
/// Memory: 64 MiB at most (or 8 bytes x (K d)^2 if that is more) a thread.
pub(super) fn refit(problem: &Problem<'_>, palettes: &[f32], indices: &[u8]) -> Vec<f32> {
    let (cols, d) = (problem.shape.cols, problem.spec.dim());
    let group = problem.spec.grouping.rows_per_palette(problem.shape) * cols;
    let fitted: Vec<_> = problem
        .weight_OI
        .par_chunks(group)
        .zip(indices.par_chunks(group / d))
        .zip(palettes.par_chunks(problem.palette_len()))
        .enumerate()
        .map(|(index, ((weights, indices), palette))| {
            let first_row = index * group / cols;
            refit_group(problem, first_row, weights, indices, palette)
        })
        .collect();
    fitted.concat()
}

fn refit_group(problem: &Problem<'_>, first_row: usize, weights: &[f32], indices: &[u8], palette: &[f32]) -> Vec<f32> {
    let (mut m_CC, mut b_C) = normal_equations(problem, first_row, weights, indices);
    let (d, unknowns) = (problem.spec.dim(), b_C.len());
    let mean = (0..unknowns).map(|c| m_CC[c * unknowns + c]).sum::<f64>() / unknowns as f64;
    let pull = (PULL * mean).max(f64::MIN_POSITIVE);
    for (c, &was) in palette.iter().enumerate() {
        m_CC[c * unknowns + c] += pull;
        b_C[c] += pull * f64::from(was);
    }
    if problem.spec.keep_zero == KeepZero::Exact {
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

/// M and b of the rows from `first_row` on: sums over parts of the rows, which do not depend on the number of threads.
fn normal_equations(problem: &Problem<'_>, first_row: usize, weights: &[f32], indices: &[u8]) -> (Vec<f64>, Vec<f64>) {
    let (cols, d, unknowns) = (problem.shape.cols, problem.spec.dim(), problem.palette_len());
    let parts = (PARTS_BYTES / (8 * unknowns * unknowns)).clamp(1, PARTS);
    let tiles = (weights.len() / cols).div_ceil(ROWS_TOGETHER);
    let rows = tiles.div_ceil(parts) * ROWS_TOGETHER;
    let parts: Vec<Equations> = weights
        .par_chunks(rows * cols)
        .zip(indices.par_chunks(rows * cols / d))
        .enumerate()
        .map(|(part, (weights, indices))| {
            let mut equations = Equations::new(unknowns);
            let tiles = weights
                .chunks(ROWS_TOGETHER * cols)
                .zip(indices.chunks(ROWS_TOGETHER * cols / d));
            for (tile, (weights, indices)) in tiles.enumerate() {
                let tile = Tile::new(
                    problem,
                    first_row + part * rows + tile * ROWS_TOGETHER,
                    weights,
                    indices,
                );
                equations.add_tile(problem, &tile);
            }
            equations
        })
        .collect();
    let sum = parts
        .into_iter()
        .reduce(|sum, part| sum.add(&part))
        .unwrap_or_else(|| Equations::new(unknowns));
    sum.finish()
}

/// Rows of a weight, their inputs in the order of the factor.
struct Tile {
    weight_RP: Vec<f32>,
    /// The palette's number that an input takes.
    number_RP: Vec<u16>,
    /// What the squared errors of the rows count.
    counts_R: Vec<f64>,
}

impl Tile {
    fn new(problem: &Problem<'_>, first_row: usize, weight_RI: &[f32], indices: &[u8]) -> Self {
        let (n, d) = (problem.shape.cols, problem.spec.dim());
        let (mut weight_RP, mut number_RP) = (Vec::with_capacity(weight_RI.len()), Vec::with_capacity(weight_RI.len()));
        for (weight_I, indices) in weight_RI.chunks(n).zip(indices.chunks(n / d)) {
            let order_P = problem.factored.order_P();
            weight_RP.extend(order_P.iter().map(|&i| weight_I[i]));
            number_RP.extend(
                order_P
                    .iter()
                    .map(|&i| u16::from(indices[i / d]) * d as u16 + (i % d) as u16),
            );
        }
        let rows = weight_RI.len() / n;
        Self {
            weight_RP,
            number_RP,
            counts_R: (first_row..first_row + rows)
                .map(|row| problem.row_weight(row))
                .collect(),
        }
    }
}

/// M as L + Lᵀ + D, where L is of the part of H below the diagonal and D of the diagonal; and b.
struct Equations {
    lower_CC: Vec<f64>,
    diagonal_C: Vec<f64>,
    b_C: Vec<f64>,
}

impl Equations {
    fn new(unknowns: usize) -> Self {
        Self {
            lower_CC: vec![0.0; unknowns * unknowns],
            diagonal_C: vec![0.0; unknowns],
            b_C: vec![0.0; unknowns],
        }
    }

    fn add(mut self, other: &Self) -> Self {
        let add = |a: &mut [f64], b: &[f64]| a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        add(&mut self.lower_CC, &other.lower_CC);
        add(&mut self.diagonal_C, &other.diagonal_C);
        add(&mut self.b_C, &other.b_C);
        self
    }

    /// M, b.
    fn finish(self) -> (Vec<f64>, Vec<f64>) {
        let Self {
            lower_CC: mut m_CC,
            diagonal_C,
            b_C,
        } = self;
        let n = b_C.len();
        for i in 0..n {
            for j in 0..i {
                let both = m_CC[i * n + j] + m_CC[j * n + i];
                m_CC[i * n + j] = both;
                m_CC[j * n + i] = both;
            }
            m_CC[i * n + i] = 2.0 * m_CC[i * n + i] + diagonal_C[i];
        }
        (m_CC, b_C)
    }

    /// Adds A H Aᵀ and A H w of the rows, column block by column block of H below its diagonal.
    fn add_tile(&mut self, problem: &Problem<'_>, tile: &Tile) {
        let (n, unknowns) = (problem.shape.cols, self.b_C.len());
        let together = (SUMS_BYTES / (8 * WIDTH * unknowns)).clamp(1, tile.counts_R.len());
        let mut sums = vec![RowSums::new(unknowns); together];
        let mut block = [[0.0; WIDTH]; DEPTH];
        for first in (0..n).step_by(WIDTH) {
            for first_row in (0..tile.counts_R.len()).step_by(together) {
                let rows = first_row..(first_row + together).min(tile.counts_R.len());
                sums.iter_mut().for_each(RowSums::clear);
                for top in (first..n).step_by(DEPTH) {
                    let below = top..(top + DEPTH).min(n);
                    for (block, row) in block.iter_mut().zip(below.clone()) {
                        let h = problem.factored.below_diagonal(row);
                        let h = &h[first..row.min(first + WIDTH)];
                        block[..h.len()].copy_from_slice(h);
                        block[h.len()..].fill(0.0);
                    }
                    for (sums, row) in sums.iter_mut().zip(rows.clone()) {
                        let below = row * n + below.start..row * n + below.end;
                        sums.add(&block, &tile.number_RP[below.clone()], &tile.weight_RP[below]);
                    }
                }
                for (sums, row) in sums.iter().zip(rows) {
                    let columns = row * n + first..row * n + (first + WIDTH).min(n);
                    let diagonal = &problem.factored.diagonal_P()[first..];
                    let (numbers, weights) = (&tile.number_RP[columns.clone()], &tile.weight_RP[columns]);
                    self.add_row(sums, diagonal, (numbers, weights, tile.counts_R[row]));
                }
            }
        }
    }

    /// Adds what a row has in the columns of these numbers and weights, its error counting so much.
    fn add_row(&mut self, sums: &RowSums, diagonal: &[f64], (numbers, weights, counts): (&[u16], &[f32], f64)) {
        let unknowns = self.b_C.len();
        for (c, ah) in sums.ah_CJ.iter().enumerate() {
            let lower_C = &mut self.lower_CC[c * unknowns..(c + 1) * unknowns];
            let mut product = 0.0;
            for (ah, (&number, &w)) in ah.iter().zip(numbers.iter().zip(weights)) {
                lower_C[usize::from(number)] += counts * ah;
                product += ah * f64::from(w);
            }
            self.b_C[c] += counts * product;
        }
        let columns = numbers.iter().zip(weights);
        for ((&hw, &h), (&number, &w)) in sums.hw_J.iter().zip(diagonal).zip(columns) {
            self.diagonal_C[usize::from(number)] += counts * h;
            self.b_C[usize::from(number)] += counts * (hw + h * f64::from(w));
        }
    }
}

/// Of one row, sums over the inputs below the diagonal of H, for the columns of a block.
#[derive(Clone)]
struct RowSums {
    /// A H.
    ah_CJ: Vec<[f64; WIDTH]>,
    /// wᵀ H.
    hw_J: [f64; WIDTH],
}

impl RowSums {
    fn new(unknowns: usize) -> Self {
        Self {
            ah_CJ: vec![[0.0; WIDTH]; unknowns],
            hw_J: [0.0; WIDTH],
        }
    }

    fn clear(&mut self) {
        self.ah_CJ.fill([0.0; WIDTH]);
        self.hw_J = [0.0; WIDTH];
    }

    /// Adds the rows of the block, one for each input.
    fn add(&mut self, block: &[[f64; WIDTH]], numbers: &[u16], weights: &[f32]) {
        dispatch(
            #[inline(always)]
            || {
                let mut hw_J = self.hw_J;
                for (h_J, (&number, &w)) in block.iter().zip(numbers.iter().zip(weights)) {
                    let ah_J = &mut self.ah_CJ[usize::from(number)];
                    let w = f64::from(w);
                    for j in 0..WIDTH {
                        ah_J[j] += h_J[j];
                        hw_J[j] += w * h_J[j];
                    }
                }
                self.hw_J = hw_J;
            },
        );
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

#[cfg(test)]
mod tests {
    use edkm_cluster::{Bits, Grouping, MatrixShape, Spec, VectorLen};

    use super::super::factor::Factored;
    use super::super::tests::{correlated, numbers};
    use super::*;

    /// The palettes whose equations are built entry by entry.
    fn entry_by_entry(problem: &Problem<'_>, h_II: &[f64], palettes: &[f32], indices: &[u8]) -> Vec<f64> {
        let (n, d, unknowns) = (problem.shape.cols, problem.spec.dim(), problem.palette_len());
        let group_rows = problem.spec.grouping.rows_per_palette(problem.shape);
        let fitted = palettes.chunks(unknowns).enumerate().flat_map(|(group, palette)| {
            let (mut m_CC, mut b_C) = (vec![0.0; unknowns * unknowns], vec![0.0; unknowns]);
            for row in group * group_rows..((group + 1) * group_rows).min(problem.shape.rows) {
                let number = |i: usize| usize::from(indices[(row * n + i) / d]) * d + i % d;
                for i in 0..n {
                    for j in 0..n {
                        let h = problem.row_weight(row) * h_II[i * n + j];
                        m_CC[number(i) * unknowns + number(j)] += h;
                        b_C[number(i)] += h * f64::from(problem.weight_OI[row * n + j]);
                    }
                }
            }
            let mean = (0..unknowns).map(|c| m_CC[c * unknowns + c]).sum::<f64>() / unknowns as f64;
            for c in 0..unknowns {
                m_CC[c * unknowns + c] += PULL * mean;
                b_C[c] += PULL * mean * f64::from(palette[c]);
            }
            for entry in 0..unknowns / d {
                let numbers = entry * d..(entry + 1) * d;
                if problem.spec.keep_zero == KeepZero::Exact && palette[numbers.clone()].iter().all(|&c| c == 0.0) {
                    pin_to_zero(&mut m_CC, &mut b_C, numbers);
                }
            }
            solve(&mut m_CC, &mut b_C).unwrap();
            b_C
        });
        fitted.collect()
    }

    #[test]
    fn palettes_are_those_of_equations_built_entry_by_entry() {
        let spec = |bits| Spec::new(Bits::new(bits).unwrap());
        let channels = |rows: usize| Grouping::PerChannels(rows.try_into().unwrap());
        let zeros = spec(3).with_keep_zero(KeepZero::Exact);
        // rows of two tiles and a rest, columns of a block and a rest, and of less than a block
        for (rows, cols) in [(37, DEPTH + WIDTH + 10), (5, 6)] {
            let shape = MatrixShape::new(rows, cols);
            let mut weight = numbers(shape.len(), 8);
            weight.iter_mut().step_by(5).for_each(|w| *w = 0.0);
            let hessian = correlated(2 * cols, cols);
            let h_II = hessian.damped(&(0..cols).collect::<Vec<_>>());
            let scales: Vec<f32> = (0..rows).map(|row| 0.5 + row as f32 / 8.0).collect();
            for (spec, row_scales) in [
                (spec(3), None),
                // A H of a row takes 64 KiB: not all rows of a tile go together
                (spec(8), None),
                (spec(2).with_grouping(channels(2)), None),
                (spec(2).with_grouping(channels(20)), Some(&scales[..])),
                (spec(4).with_vector(VectorLen::Two), None),
                (spec(3), Some(&scales[..])),
                (zeros, None),
                (zeros.with_vector(VectorLen::Two).with_grouping(channels(3)), None),
            ] {
                let factored = Factored::new(&hessian, spec.dim()).unwrap();
                let problem = Problem {
                    weight_OI: &weight,
                    shape,
                    spec: &spec,
                    row_scales,
                    factored: &factored,
                };
                let groups = spec.grouping.palettes(shape);
                let mut palettes = numbers(groups * problem.palette_len(), 9);
                if spec.keep_zero == KeepZero::Exact {
                    palettes
                        .chunks_mut(problem.palette_len())
                        .for_each(|palette| palette[..spec.dim()].fill(0.0));
                }
                let indices = problem.assign(&palettes).0;
                let fitted = refit(&problem, &palettes, &indices);
                let want = entry_by_entry(&problem, &h_II, &palettes, &indices);
                assert_eq!(fitted.len(), want.len());
                for (c, (&got, &want)) in fitted.iter().zip(&want).enumerate() {
                    // the palette is rounded to f32; the pull alone holds unused entries, and its millionth part magnifies what f64 rounds
                    assert!(
                        (f64::from(got) - want).abs() <= 1e-6 * want.abs().max(1.0),
                        "{spec:?} {rows} x {cols}, number {c}: {got} {want}"
                    );
                }
                // that which is fitted is better for its assignment
                assert!(fitted != palettes);
            }
        }
    }

    /// With a palette for the tensor, tasks are parts of it; with one for a few rows, they are palettes.
    #[test]
    fn threads_do_not_change_palettes() {
        let shape = MatrixShape::new(200, 40);
        let weight = numbers(shape.len(), 10);
        let factored = Factored::new(&correlated(80, 40), 1).unwrap();
        for grouping in [Grouping::PerTensor, Grouping::PerChannels(3.try_into().unwrap())] {
            let spec = Spec::new(Bits::new(3).unwrap()).with_grouping(grouping);
            let problem = Problem {
                weight_OI: &weight,
                shape,
                spec: &spec,
                row_scales: None,
                factored: &factored,
            };
            let palettes = numbers(spec.grouping.palettes(shape) * 8, 11);
            let with_threads = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let (indices, error) = problem.assign(&palettes);
                    (refit(&problem, &palettes, &indices), indices, error.to_bits())
                })
            };
            let one = with_threads(1);
            assert_eq!(one, with_threads(2));
            assert_eq!(one, with_threads(5));
        }
    }
}
