//! What a layer's inputs say about its weights: the Hessian of the squared error of its outputs.

use edkm_kernels::matmul::{self, Accumulate};

/// The damping that GPTQ's authors use: a hundredth of the mean of the diagonal is added to it.
const DAMPING: f64 = 0.01;

/// Xᵀ X of the inputs X of a linear layer, `[inputs, inputs]`, over all tokens seen.
///
/// Memory: 12 bytes x inputs^2 while it is added to, 8 after.
#[derive(Debug, Clone)]
pub struct Hessian {
    inputs: usize,
    sum_II: Vec<f64>,
    tokens: u64,
}

impl Hessian {
    /// Of no token yet.
    pub fn new(inputs: usize) -> Self {
        Self {
            inputs,
            sum_II: vec![0.0; inputs * inputs],
            tokens: 0,
        }
    }

    /// Adds the inputs `x_NI` `[tokens, inputs]`. A piece of a row that is not there is left out.
    pub fn add(&mut self, x_NI: &[f32]) {
        let inputs = self.inputs;
        let tokens = x_NI.len().checked_div(inputs).unwrap_or(0);
        let x_NI = &x_NI[..tokens * inputs];
        let mut product_II = vec![0.0; inputs * inputs];
        matmul::tn(
            inputs,
            inputs,
            tokens,
            x_NI,
            x_NI,
            &mut product_II,
            Accumulate::Overwrite,
        );
        self.sum_II
            .iter_mut()
            .zip(&product_II)
            .for_each(|(sum, &x)| *sum += f64::from(x));
        self.tokens += tokens as u64;
    }

    /// Inputs of the layer.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The diagonal of [`Self::damped`].
    pub(super) fn damped_diagonal(&self) -> Vec<f64> {
        let n = self.inputs;
        let scale = self.scale();
        let mut diagonal_I: Vec<f64> = (0..n).map(|i| self.sum_II[i * n + i] * scale).collect();
        let mean = diagonal_I.iter().sum::<f64>() / n.max(1) as f64;
        for entry in &mut diagonal_I {
            if *entry == 0.0 {
                *entry = if mean > 0.0 { mean } else { 1.0 };
            }
            *entry += DAMPING * mean;
        }
        diagonal_I
    }

    /// The mean over tokens, with an input that is never used given the mean weight and the diagonal damped, so that it is positive definite. Inputs
    /// come in the order given.
    pub(super) fn damped(&self, order_P: &[usize]) -> Vec<f64> {
        let n = self.inputs;
        let scale = self.scale();
        let diagonal_I = self.damped_diagonal();
        let mut damped_PP: Vec<f64> = Vec::with_capacity(n * n);
        for (row, &i) in order_P.iter().enumerate() {
            let sum_I = &self.sum_II[i * n..(i + 1) * n];
            damped_PP.extend(order_P.iter().map(|&j| sum_I[j] * scale));
            damped_PP[row * n + row] = diagonal_I[i];
        }
        damped_PP
    }

    /// What makes a sum over tokens a mean.
    fn scale(&self) -> f64 {
        1.0 / self.tokens.max(1) as f64
    }
}
