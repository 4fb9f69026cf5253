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
use edkm_palette::{PaletteDType, PalettizedMatrix};
use rayon::prelude::*;

use super::cholesky::cholesky;
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
/// Memory: 16 bytes x inputs^2, and 9 bytes a weight.
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
    let row_scales = channel_scale.of(weight_OI, shape);
    let row_scales = row_scales.as_deref();
    let weight_OI = &divided(weight_OI, row_scales)[..];
    if hessian.inputs() != shape.cols {
        return Err(GptqError::Inputs {
            expected: shape.cols,
            got: hessian.inputs(),
        });
    }
    let h_II = hessian.damped();
    let packed_spec = edkm_llama::model::palette_spec(spec, dtype);
    // refuses what cannot be clustered
    let prepared = Prepared::new(weight_OI, shape, spec)?;
    let problem = Problem::new(weight_OI, shape, &h_II, spec, row_scales)?;
    let (palettes, rounds) = match levels {
        Levels::EvenlySpaced if spec.dim() > 1 => return Err(GptqError::EvenVectors { len: spec.dim() }),
        Levels::EvenlySpaced => (round_to_nearest(weight_OI, shape, spec).0, 0),
        Levels::KMeans => {
            let diagonal_I: Vec<f32> = (0..shape.cols).map(|i| h_II[i * shape.cols + i] as f32).collect();
            let importance = diagonal_I.repeat(shape.rows);
            (
                prepared
                    .initial_weighted(&of_divided(&importance, shape, row_scales))?
                    .into_vec(),
                ROUNDS,
            )
        }
    };
    let mut palettes = packed_spec.rounded(&palettes)?;
    let (mut indices, mut error) = problem.assign(&palettes);
    for _ in 0..rounds {
        let fitted = packed_spec.rounded(&refit(&problem, &h_II, &palettes, &indices))?;
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
    row_scales: Option<&'a [f32]>,
    /// The inputs, those with most weight last: inputs are assigned from the last to the first.
    order_P: Vec<usize>,
    factor_PP: Vec<f64>,
}

impl<'a> Problem<'a> {
    fn new(
        weight_OI: &'a [f32],
        shape: MatrixShape,
        h_II: &[f64],
        spec: &'a Spec,
        row_scales: Option<&'a [f32]>,
    ) -> Result<Self, GptqError> {
        let (n, d) = (shape.cols, spec.dim());
        let mut vectors: Vec<usize> = (0..n / d).collect();
        let weight = |vector: &usize| (vector * d..(vector + 1) * d).map(|i| h_II[i * n + i]).sum::<f64>();
        vectors.sort_by(|a, b| weight(a).total_cmp(&weight(b)));
        let order_P: Vec<usize> = vectors.iter().flat_map(|vector| vector * d..(vector + 1) * d).collect();
        let mut factor_PP: Vec<f64> = Vec::with_capacity(n * n);
        for &i in &order_P {
            factor_PP.extend(order_P.iter().map(|&j| h_II[i * n + j]));
        }
        cholesky(&mut factor_PP, n).map_err(|_| GptqError::NotPositiveDefinite)?;
        Ok(Self {
            weight_OI,
            shape,
            spec,
            row_scales,
            order_P,
            factor_PP,
        })
    }

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
    fn assign(&self, palettes: &[f32]) -> (Vec<u8>, f64) {
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
        let mut errors_RP = vec![0.0; weight_RI.len()];
        let mut carried_d = vec![0.0; d];
        let mut total = 0.0;
        for vector in (0..n / d).rev() {
            let first = vector * d;
            let columns = &self.order_P[first..first + d];
            for (row, (weight_I, errors_P)) in weight_RI.chunks(n).zip(errors_RP.chunks_mut(n)).enumerate() {
                let weight_d = &weight_I[columns[0]..columns[0] + d];
                // U e of these inputs, from the inputs behind them
                for (k, carried) in carried_d.iter_mut().enumerate() {
                    let factor_P = &self.factor_PP[(first + k) * n..(first + k + 1) * n];
                    *carried = dot(&factor_P[first + d..], &errors_P[first + d..]);
                }
                let cost = |entry: &[f64]| self.cost(first, weight_d, entry, &carried_d);
                let (index, cost) = match zero.filter(|_| self.stays_zero(weight_d)) {
                    Some(index) => (index, cost(&palette[index * d..(index + 1) * d])),
                    None => palette
                        .chunks(d)
                        .map(cost)
                        .enumerate()
                        .fold(
                            (0, f64::INFINITY),
                            |best, (index, cost)| if cost < best.1 { (index, cost) } else { best },
                        ),
                };
                total += self.row_weight(first_row + row) * cost;
                for (k, error) in errors_P[first..first + d].iter_mut().enumerate() {
                    *error = f64::from(weight_d[k]) - palette[index * d + k];
                }
                indices[(row * n + columns[0]) / d] = index as u8;
            }
        }
        total
    }

    /// The part of |U e|² that the inputs from `first` on have if they take `entry`.
    fn cost(&self, first: usize, weight_d: &[f32], entry: &[f64], carried_d: &[f64]) -> f64 {
        let n = self.shape.cols;
        let mut cost = 0.0;
        for (k, carried) in carried_d.iter().enumerate() {
            let mut sum = *carried;
            for l in k..entry.len() {
                sum += self.factor_PP[(first + k) * n + first + l] * (f64::from(weight_d[l]) - entry[l]);
            }
            cost += sum * sum;
        }
        cost
    }
}

/// A product of two vectors, in eight sums so that it fills registers.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a4, a_rest) = a.as_chunks::<8>();
    let (b4, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a4.iter().zip(b4) {
        for k in 0..8 {
            sums[k] += a[k] * b[k];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}
