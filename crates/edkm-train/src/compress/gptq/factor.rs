//! A Hessian and its Cholesky factor.

use super::cholesky::cholesky;
use super::hessian::Hessian;
use super::GptqError;

/// The damped Hessian H and its factor U (H = Uᵀ U), with inputs in the order of the factor: those with most weight last, as inputs are assigned from the last
/// to the first. The d inputs of a vector stay together.
///
/// Memory: 8 bytes x inputs^2.
pub(super) struct Factored {
    dim: usize,
    order_P: Vec<usize>,
    /// H's diagonal.
    diagonal_P: Vec<f64>,
    /// U from the diagonal on, H, which is symmetric, below it.
    factor_PP: Vec<f64>,
}

impl Factored {
    /// Of the inputs of vectors of `dim`.
    ///
    /// # Errors
    /// Numbers that are not finite.
    pub(super) fn new(hessian: &Hessian, dim: usize) -> Result<Self, GptqError> {
        let n = hessian.inputs();
        let diagonal_I = hessian.damped_diagonal();
        let inputs_of = |vector: usize| vector * dim..((vector + 1) * dim).min(n);
        let weight = |vector: usize| diagonal_I[inputs_of(vector)].iter().sum::<f64>();
        let mut vectors: Vec<usize> = (0..n.div_ceil(dim)).collect();
        vectors.sort_by(|&a, &b| weight(a).total_cmp(&weight(b)));
        let order_P: Vec<usize> = vectors.into_iter().flat_map(inputs_of).collect();
        let mut factor_PP = hessian.damped(&order_P);
        cholesky(&mut factor_PP, n).map_err(|_| GptqError::NotPositiveDefinite)?;
        Ok(Self {
            dim,
            diagonal_P: order_P.iter().map(|&i| diagonal_I[i]).collect(),
            order_P,
            factor_PP,
        })
    }

    /// Inputs of the layer.
    pub(super) fn inputs(&self) -> usize {
        self.order_P.len()
    }

    /// Inputs of a vector.
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// The inputs in the order of the factor.
    pub(super) fn order_P(&self) -> &[usize] {
        &self.order_P
    }

    /// H's diagonal.
    pub(super) fn diagonal_P(&self) -> &[f64] {
        &self.diagonal_P
    }

    /// A row of U, from the diagonal on.
    #[inline(always)]
    pub(super) fn factor(&self, row: usize) -> &[f64] {
        let n = self.inputs();
        &self.factor_PP[row * n + row..(row + 1) * n]
    }

    /// A row of H, up to the diagonal and without it.
    #[inline(always)]
    pub(super) fn below_diagonal(&self, row: usize) -> &[f64] {
        &self.factor_PP[row * self.inputs()..][..row]
    }
}

/// A layer's Hessian, which is factored once for all matrices that read the layer's inputs by vectors of one length.
pub(super) struct LayerInputs {
    hessian: Hessian,
    factored: Option<Factored>,
}

impl LayerInputs {
    pub(super) fn new(hessian: Hessian) -> Self {
        Self {
            hessian,
            factored: None,
        }
    }

    /// The factor for vectors of `dim` inputs.
    ///
    /// # Errors
    /// As [`Factored::new`].
    pub(super) fn factored(&mut self, dim: usize) -> Result<&Factored, GptqError> {
        let factored = match self.factored.take().filter(|factored| factored.dim() == dim) {
            Some(factored) => factored,
            None => Factored::new(&self.hessian, dim)?,
        };
        Ok(self.factored.insert(factored))
    }
}
