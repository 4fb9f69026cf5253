//! GPTQ on one weight matrix, onto palettes.
//!
//! With the Hessian H = Uᵀ U (U upper triangular), the squared error of a row's outputs is |U e|² for its errors e = w - q. The entry of U e at
//! an input depends on that input and on those after it alone. So inputs are assigned from the last to the first, each to the palette entry
//! nearest to the weight plus what makes up for the errors made so far:
//!
//! ```text
//! t_j = w_j + sum over i > j of U_ji e_i / U_jj,      q_j = nearest(t_j),      the error grows by (U_jj (t_j - q_j))²
//! ```
//!
//! which is GPTQ (arXiv 2210.17323) without an inverse; QuIP (arXiv 2307.13304, section 4) shows that the two are one. Inputs are ordered so that the
//! ones with most weight come first ("activation order"). A vector of inputs is assigned at once, with the sum of its errors in place of one.
//!
//! Axes: O output channels, I inputs, P inputs in the order of the factor, K entries of a palette, d inputs of a vector.

use dfdx_edkm::channel_scale::divided;
use dfdx_edkm::ChannelScale;
use edkm_cluster::{KeepZero, MatrixShape, Prepared, Spec};
use edkm_kernels::lanes::dispatch;
use edkm_palette::{PaletteDType, PalettizedMatrix};
use rayon::prelude::*;

use super::factor::Factored;
use super::hessian::Hessian;
use super::refit::refit;
use super::{GptqError, Levels};
use crate::compress::{of_divided, round_to_nearest};

/// Rows that go through the factor together, so that it is read once for all of them.
const ROWS_TOGETHER: usize = 8;

/// Times that the palette is fitted to the assignment and the assignment made anew, at most.
const ROUNDS: usize = 8;

/// Rounds end when the error falls by less than this part of it.
const ENOUGH: f64 = 1e-3;

/// A matrix on palettes, and what it costs.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// Palettes and packed indices.
    pub matrix: PalettizedMatrix,
    /// Sum over output channels of eᵀ H e, with the mean Hessian a token: the squared error of the outputs, damping included.
    pub error: f64,
}

/// Assigns `weight_OI` to palettes of 2^bits entries by GPTQ, with the groups of `spec`.
///
/// Memory: 8 bytes x inputs^2, and 9 bytes a weight.
///
/// # Errors
/// A Hessian of another size or with numbers that are not finite, a weight that cannot be clustered, vectors on evenly spaced levels.
pub fn quantize(
    weight_OI: &[f32],
    shape: MatrixShape,
    hessian: &Hessian,
    spec: &Spec,
    levels: Levels,
    dtype: PaletteDType,
) -> Result<Quantized, GptqError> {
    quantize_scaled(weight_OI, shape, hessian, spec, ChannelScale::None, levels, dtype)
}

/// The same with rows that are brought to one spread first. What a row costs then counts by the square of its factor.
///
/// Memory: 4 bytes more a weight.
///
/// # Errors
/// As [`quantize`].
pub fn quantize_scaled(
    weight_OI: &[f32],
    shape: MatrixShape,
    hessian: &Hessian,
    spec: &Spec,
    channel_scale: ChannelScale,
    levels: Levels,
    dtype: PaletteDType,
) -> Result<Quantized, GptqError> {
    let factored = Factored::new(hessian, spec.dim())?;
    quantize_factored(weight_OI, shape, &factored, spec, channel_scale, levels, dtype)
}

/// The same with the factor of the Hessian, for vectors of as many inputs as the `spec` has.
pub(super) fn quantize_factored(
    weight_OI: &[f32],
    shape: MatrixShape,
    factored: &Factored,
    spec: &Spec,
    channel_scale: ChannelScale,
    levels: Levels,
    dtype: PaletteDType,
) -> Result<Quantized, GptqError> {
    let row_scales = channel_scale.of(weight_OI, shape);
    let row_scales = row_scales.as_deref();
    let weight_OI = &divided(weight_OI, row_scales)[..];
    if factored.inputs() != shape.cols {
        return Err(GptqError::Inputs {
            expected: shape.cols,
            got: factored.inputs(),
        });
    }
    let packed_spec = edkm_llama::model::palette_spec(spec, dtype);
    // refuses what cannot be clustered
    let prepared = Prepared::new(weight_OI, shape, spec)?;
    let problem = Problem {
        weight_OI,
        shape,
        spec,
        row_scales,
        factored,
    };
    let (palettes, rounds) = match levels {
        Levels::EvenlySpaced if spec.dim() > 1 => return Err(GptqError::EvenVectors { len: spec.dim() }),
        Levels::EvenlySpaced => (round_to_nearest(weight_OI, shape, spec).0, 0),
        Levels::KMeans => {
            let mut diagonal_I = vec![0.0; shape.cols];
            for (&i, &entry) in factored.order_P().iter().zip(factored.diagonal_P()) {
                diagonal_I[i] = entry as f32;
            }
            let importance = diagonal_I.repeat(shape.rows);
            (
                prepared
                    .initial_weighted(&of_divided(&importance, shape, row_scales))?
                    .into_vec(),
                ROUNDS,
            )
        }
    };
    drop(prepared);
    let mut palettes = packed_spec.rounded(&palettes)?;
    let (mut indices, mut error) = problem.assign(&palettes);
    for _ in 0..rounds {
        let fitted = packed_spec.rounded(&refit(&problem, &palettes, &indices))?;
        let (next_indices, next_error) = problem.assign(&fitted);
        // a fitted palette is better for the assignment it was fitted to; a new assignment need not be
        if next_error >= error {
            break;
        }
        let little = error - next_error < ENOUGH * error;
        (palettes, indices, error) = (fitted, next_indices, next_error);
        if little {
            break;
        }
    }
    let matrix = PalettizedMatrix::pack(shape.rows, shape.cols, packed_spec, &palettes, &indices, row_scales)?;
    Ok(Quantized { matrix, error })
}

/// A matrix to assign, and the factor of its Hessian.
pub(super) struct Problem<'a> {
    pub(super) weight_OI: &'a [f32],
    pub(super) shape: MatrixShape,
    pub(super) spec: &'a Spec,
    /// What the rows were divided by.
    pub(super) row_scales: Option<&'a [f32]>,
    pub(super) factored: &'a Factored,
}

impl Problem<'_> {
    pub(super) fn palette_len(&self) -> usize {
        self.spec.clusters() * self.spec.dim()
    }

    /// What the squared error of a row counts.
    pub(super) fn row_weight(&self, row: usize) -> f64 {
        self.row_scales.map_or(1.0, |scales| f64::from(scales[row]).powi(2))
    }

    /// Whether the vector of these weights is to stay zero.
    pub(super) fn stays_zero(&self, vector: &[f32]) -> bool {
        self.spec.keep_zero == KeepZero::Exact && vector.iter().all(|&w| w == 0.0)
    }

    /// The index of each vector, and the error of all.
    pub(super) fn assign(&self, palettes: &[f32]) -> (Vec<u8>, f64) {
        let (cols, d) = (self.shape.cols, self.spec.dim());
        let group_rows = self.spec.grouping.rows_per_palette(self.shape);
        let mut indices = vec![0; self.shape.len() / d];
        // tiles end where groups end: a tile has one palette
        let groups = self
            .weight_OI
            .chunks(group_rows * cols)
            .zip(indices.chunks_mut(group_rows * cols / d))
            .zip(palettes.chunks(self.palette_len()));
        let tiles: Vec<_> = groups
            .enumerate()
            .flat_map(|(group, ((weights, indices), palette))| {
                weights
                    .chunks(ROWS_TOGETHER * cols)
                    .zip(indices.chunks_mut(ROWS_TOGETHER * cols / d))
                    .enumerate()
                    .map(move |(tile, (weights, indices))| {
                        let first = group * group_rows + tile * ROWS_TOGETHER;
                        (first, weights, indices, palette)
                    })
            })
            .collect();
        let errors: Vec<f64> = tiles
            .into_par_iter()
            .map(|(first, weights, indices, palette)| self.assign_rows(first, weights, palette, indices))
            .collect();
        (indices, errors.iter().sum())
    }

    fn assign_rows(&self, first_row: usize, weight_RI: &[f32], palette: &[f32], indices: &mut [u8]) -> f64 {
        let (n, d) = (self.shape.cols, self.spec.dim());
        let palette: Vec<f64> = palette.iter().map(|&c| c.into()).collect();
        let zero = palette.chunks(d).position(|entry| entry.iter().all(|&c| c == 0.0));
        let rows = weight_RI.len() / n;
        let mut errors_RP = vec![0.0; weight_RI.len()];
        let mut carried_Rd = vec![0.0; rows * d];
        let mut total = 0.0;
        dispatch(
            #[inline(always)]
            || {
                for vector in (0..n / d).rev() {
                    let first = vector * d;
                    let column = self.factored.order_P()[first];
                    self.carry(first, &errors_RP, &mut carried_Rd);
                    for (row, weight_I) in weight_RI.chunks(n).enumerate() {
                        let weight_d = &weight_I[column..column + d];
                        let carried_d = &carried_Rd[row * d..(row + 1) * d];
                        let cost = |entry: &[f64]| self.cost(first, weight_d, entry, carried_d);
                        let (index, cost) = match zero.filter(|_| self.stays_zero(weight_d)) {
                            Some(index) => (index, cost(&palette[index * d..(index + 1) * d])),
                            None => palette.chunks(d).map(cost).enumerate().fold(
                                (0, f64::INFINITY),
                                |best, (index, cost)| if cost < best.1 { (index, cost) } else { best },
                            ),
                        };
                        total += self.row_weight(first_row + row) * cost;
                        for (k, error) in errors_RP[row * n + first..][..d].iter_mut().enumerate() {
                            *error = f64::from(weight_d[k]) - palette[index * d + k];
                        }
                        indices[(row * n + column) / d] = index as u8;
                    }
                }
            },
        );
        total
    }

    /// U e of the inputs of the vector that begins at `first`, from the inputs behind them, for each row.
    #[inline(always)]
    fn carry(&self, first: usize, errors_RP: &[f64], carried_Rd: &mut [f64]) {
        let (n, d) = (self.shape.cols, self.spec.dim());
        for k in 0..d {
            let factor_P = &self.factored.factor(first + k)[d - k..];
            let mut carried_R = carried_Rd.chunks_exact_mut(d).map(|carried_d| &mut carried_d[k]);
            // side by side, so that sums do not wait for each other's additions
            let rest = carry_rows::<ROWS_TOGETHER>(factor_P, errors_RP, n, &mut carried_R);
            let rest = carry_rows::<{ ROWS_TOGETHER / 2 }>(factor_P, rest, n, &mut carried_R);
            carry_rows::<1>(factor_P, rest, n, &mut carried_R);
        }
    }

    /// The part of |U e|² that the inputs from `first` on have if they take `entry`.
    #[inline(always)]
    fn cost(&self, first: usize, weight_d: &[f32], entry: &[f64], carried_d: &[f64]) -> f64 {
        let mut cost = 0.0;
        for (k, carried) in carried_d.iter().enumerate() {
            let mut sum = *carried;
            for (factor, l) in self.factored.factor(first + k).iter().zip(k..entry.len()) {
                sum += factor * (f64::from(weight_d[l]) - entry[l]);
            }
            cost += sum * sum;
        }
        cost
    }
}

/// Products of a row of the factor with the last errors of each row, R rows at a time; what is left of them.
#[inline(always)]
fn carry_rows<'e, 'c, const R: usize>(
    factor_P: &[f64],
    errors_RP: &'e [f64],
    inputs: usize,
    carried_R: &mut impl Iterator<Item = &'c mut f64>,
) -> &'e [f64] {
    let behind = inputs - factor_P.len()..inputs;
    let tiles = errors_RP.chunks_exact(R * inputs);
    let rest = tiles.remainder();
    for tile in tiles {
        let rows: [&[f64]; R] = std::array::from_fn(|row| &tile[row * inputs..(row + 1) * inputs][behind.clone()]);
        for (product, carried) in dots(factor_P, rows).into_iter().zip(&mut *carried_R) {
            *carried = product;
        }
    }
    rest
}

/// Products of a vector with several, each in eight sums so that it fills registers: the same number whatever the others are.
#[inline(always)]
fn dots<const R: usize>(a: &[f64], rows: [&[f64]; R]) -> [f64; R] {
    let (a8, a_rest) = a.as_chunks::<8>();
    let rows8 = rows.map(|row| &row.as_chunks::<8>().0[..a8.len()]);
    let mut sums = [[0.0; 8]; R];
    for (i, a) in a8.iter().enumerate() {
        for (sums, row) in sums.iter_mut().zip(rows8) {
            for k in 0..8 {
                sums[k] += a[k] * row[i][k];
            }
        }
    }
    let mut products = [0.0; R];
    for ((product, sums), row) in products.iter_mut().zip(sums).zip(rows) {
        let row_rest = row.as_chunks::<8>().1;
        let rest: f64 = a_rest.iter().zip(row_rest).map(|(a, b)| a * b).sum();
        *product = sums.iter().sum::<f64>() + rest;
    }
    products
}

#[cfg(test)]
mod tests {
    use super::super::tests::numbers;
    use super::*;

    /// Rows are made side by side where there are enough; what comes of one is the same as alone, to the bit.
    #[test]
    fn products_side_by_side_are_those_of_each_alone() {
        for len in [0, 1, 7, 8, 9, 30, 64] {
            let row = |seed| -> Vec<f64> { numbers(len, seed).into_iter().map(f64::from).collect() };
            let (a, rows) = (row(1), [2, 3, 4, 5].map(row));
            let together = dots(&a, [&rows[0][..], &rows[1], &rows[2], &rows[3]]);
            for (row, product) in rows.iter().zip(together) {
                assert_eq!([product.to_bits()], dots(&a, [&row[..]]).map(f64::to_bits));
                let plain: f64 = a.iter().zip(row).map(|(a, b)| a * b).sum();
                // 64 products of numbers below 1
                assert!((product - plain).abs() < 1e-13, "{len}: {product} {plain}");
            }
        }
    }
}
