//! The gradient at a fixed point of the repetition.
//!
//! Where c = F(c, w), implicit differentiation gives dL/dw = v (I - J)^-1 dF/dw with J = dF/dc and v the gradient for c (IDKM, arXiv
//! 2312.07759, section 3). The inverse is summed as v (I + J + J^2 + ...): what unrolling a repetition that stays where it is would give, with
//! one repetition kept. J contracts at a minimum of the k-means error, the faster the harder the assignment is.

/// Terms of the series at most.
const TERMS: usize = 500;

/// The series ends where a term is this small beside the first.
const SMALL: f64 = 1e-6;

/// Numbers of a centroid.
pub(crate) trait Centroid {
    /// The largest magnitude.
    fn magnitude(&self) -> f64;
}

impl Centroid for f64 {
    fn magnitude(&self) -> f64 {
        self.abs()
    }
}

impl<const D: usize> Centroid for [f64; D] {
    fn magnitude(&self) -> f64 {
        self.iter().fold(0.0, |largest, c| largest.max(c.abs()))
    }
}

/// Takes the gradient for the centroids back through `repetition`, again and again, until nothing is left of it. `repetition` adds to the
/// gradient of the weights and answers the gradient for the centroids that it started from.
///
/// A gradient that grows, since the centroids are no fixed point that attracts, is dropped: what was added until then remains.
pub(crate) fn solve<C: Centroid>(first: Vec<C>, mut repetition: impl FnMut(&[C]) -> Vec<C>) {
    let magnitude = |grad: &[C]| grad.iter().map(C::magnitude).fold(0.0, f64::max);
    let first_magnitude = magnitude(&first);
    let mut grad = first;
    for _ in 0..TERMS {
        let now = magnitude(&grad);
        // written so that NaN ends it too
        if !(now > SMALL * first_magnitude && now <= 2.0 * first_magnitude) {
            break;
        }
        grad = repetition(&grad);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_series() {
        let mut sum = 0.0;
        solve(vec![3.0], |grad: &[f64]| {
            sum += grad[0];
            vec![0.9 * grad[0]]
        });
        assert!((sum - 30.0).abs() < 1e-4, "{sum}");
    }

    #[test]
    fn ends_where_the_gradient_grows() {
        let mut terms = 0;
        solve(vec![[1.0, -1.0]], |grad: &[[f64; 2]]| {
            terms += 1;
            vec![grad[0].map(|g| -1.5 * g)]
        });
        assert_eq!(terms, 2);
        solve(vec![f64::NAN], |_: &[f64]| panic!("NaN has no series"));
    }
}
