//! The shapes that layers of matrices take: rows of features, along up to three axes.

use dfdx::prelude::*;

/// A shape whose last axis has `I` features: `[I]`, `[B, I]`, `[B, S, I]` or `[B, G, S, I]`.
#[diagnostic::on_unimplemented(
    message = "a layer of `{I}` inputs takes tensors whose last axis has as many, not `{Self}`",
    label = "expected `(I,)`, `(B, I)`, `(B, S, I)` or `(B, G, S, I)` with `I` = `{I}`"
)]
pub trait RowsOf<I: Dim>: Shape {
    /// The same rows with `O` features.
    type With<O: Dim>: Shape;

    /// The same rows with `features` features.
    fn with<O: Dim>(&self, features: O) -> Self::With<O>;
}

impl<I: Dim> RowsOf<I> for (I,) {
    type With<O: Dim> = (O,);

    fn with<O: Dim>(&self, features: O) -> (O,) {
        (features,)
    }
}

impl<B: Dim, I: Dim> RowsOf<I> for (B, I) {
    type With<O: Dim> = (B, O);

    fn with<O: Dim>(&self, features: O) -> (B, O) {
        (self.0, features)
    }
}

impl<B: Dim, S: Dim, I: Dim> RowsOf<I> for (B, S, I) {
    type With<O: Dim> = (B, S, O);

    fn with<O: Dim>(&self, features: O) -> (B, S, O) {
        (self.0, self.1, features)
    }
}

impl<B: Dim, G: Dim, S: Dim, I: Dim> RowsOf<I> for (B, G, S, I) {
    type With<O: Dim> = (B, G, S, O);

    fn with<O: Dim>(&self, features: O) -> (B, G, S, O) {
        (self.0, self.1, self.2, features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{builders, ClusteredLinear, UnbiasedClusteredLinear};

    #[test]
    fn a_row_has_the_same_outputs_whatever_it_lies_in() {
        let dev = Cpu::default();
        let biased = dev.build_module::<builders::ClusteredLinear<4, 3>, f32>();
        let unbiased = UnbiasedClusteredLinear {
            weight: biased.weight.clone(),
            clustering: biased.clustering.clone(),
        };
        // A power of two at one place of each row: a row alone has a product of its own, and no order of sums shall matter.
        let mut values = vec![0.0f32; 24];
        for (row, place) in [2, 0, 3, 1, 2, 3].into_iter().enumerate() {
            values[4 * row + place] = [1.0, -4.0, 0.5, 2.0, -1.0, 8.0][row];
        }
        let x_bsi = dev.tensor_from_vec(values.clone(), (Const::<2>, Const::<3>, Const::<4>));
        let (y_bso, z_bso) = (biased.forward(x_bsi.clone()).array(), unbiased.forward(x_bsi).array());
        let x_bgsi = dev.tensor_from_vec(values.clone(), (Const::<2>, Const::<1>, Const::<3>, Const::<4>));
        assert_eq!(biased.forward(x_bgsi).array(), y_bso.map(|y_so| [y_so]));
        let x_bi = dev.tensor_from_vec(values.clone(), (6usize, Const::<4>));
        let y_bo = biased.forward(x_bi).as_vec();
        assert_eq!(y_bo, y_bso.as_flattened().as_flattened());
        for (row, values) in values.chunks(4).enumerate() {
            let x_i = dev.tensor_from_vec(values.to_vec(), (Const::<4>,));
            let y_o: Tensor<Rank1<3>, f32, Cpu> = biased.forward(x_i.clone());
            assert_eq!(y_o.array(), y_bso[row / 3][row % 3]);
            assert_eq!(unbiased.forward(x_i).array(), z_bso[row / 3][row % 3]);
        }
    }

    #[test]
    fn run_time_dimensions_are_kept() {
        let dev = Cpu::default();
        let layer = ClusteredLinear::<usize, usize, f32, Cpu> {
            weight: dev.zeros_like(&(5, 4)),
            bias: dev.ones_like(&(5,)),
            clustering: Default::default(),
        };
        let y = layer.forward(dev.zeros_like(&(2usize, Const::<3>, 4usize)));
        assert_eq!(*y.shape(), (2, Const::<3>, 5));
        assert_eq!(y.as_vec(), [1.0; 30]);
    }
}
