//! Matrix shapes and which rows share a palette.

use std::num::NonZeroUsize;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::ClusterError;

/// Shape of a row-major weight matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatrixShape {
    /// Output channels.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

impl MatrixShape {
    /// A matrix of `rows` output channels and `cols` inputs.
    pub const fn new(rows: usize, cols: usize) -> Self {
        MatrixShape { rows, cols }
    }

    /// Number of weights (saturating: no slice can be that long).
    pub const fn len(self) -> usize {
        self.rows.saturating_mul(self.cols)
    }

    /// Whether the matrix has no weights.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Checks that a slice holds the matrix.
    pub(crate) fn check<T>(self, what: &'static str, slice: &[T]) -> Result<(), ClusterError> {
        if self.is_empty() {
            return Err(ClusterError::Empty {
                rows: self.rows,
                cols: self.cols,
            });
        }
        check_length(what, self.len(), slice.len())
    }
}

/// Checks a length.
pub(crate) fn check_length(what: &'static str, expected: usize, got: usize) -> Result<(), ClusterError> {
    if expected == got {
        Ok(())
    } else {
        Err(ClusterError::Length { what, expected, got })
    }
}

/// Which weights share a palette.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Grouping {
    /// One palette for the matrix.
    #[default]
    PerTensor,
    /// One palette for each group of so many consecutive output channels; the last group may be smaller.
    PerChannels(NonZeroUsize),
}

impl Grouping {
    /// Rows that share a palette.
    pub fn rows_per_palette(self, shape: MatrixShape) -> usize {
        match self {
            Grouping::PerTensor => shape.rows,
            Grouping::PerChannels(rows) => rows.get().min(shape.rows),
        }
    }

    /// Number of palettes.
    pub fn palettes(self, shape: MatrixShape) -> usize {
        match self.rows_per_palette(shape) {
            0 => 0,
            rows => shape.rows.div_ceil(rows),
        }
    }

    /// Weights of a palette; the last palette may have fewer.
    pub fn weights_per_palette(self, shape: MatrixShape) -> usize {
        self.rows_per_palette(shape) * shape.cols
    }

    /// The range of a palette's weights in the row-major matrix.
    pub fn weights_of(self, shape: MatrixShape, palette: usize) -> Range<usize> {
        let len = self.weights_per_palette(shape);
        palette * len..((palette + 1) * len).min(shape.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_the_matrix_once() {
        let shape = MatrixShape::new(7, 5);
        for rows in 1..=9 {
            let grouping = Grouping::PerChannels(NonZeroUsize::new(rows).unwrap());
            let covered: Vec<usize> = (0..grouping.palettes(shape))
                .flat_map(|g| grouping.weights_of(shape, g))
                .collect();
            assert_eq!(covered, (0..35).collect::<Vec<_>>(), "groups of {rows}");
        }
        assert_eq!(Grouping::PerTensor.weights_of(shape, 0), 0..35);
    }
}
