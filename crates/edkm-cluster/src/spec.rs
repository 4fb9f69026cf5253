//! What to cluster into, and how.

use serde::{Deserialize, Serialize};

use crate::{Bits, ClusterError, Grouping, MatrixShape, Temperature};

/// The 16-bit format that weights are rounded to (nearest, ties to even) before clustering.
///
/// The gradient passes the rounding unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum HalfKind {
    /// bfloat16: 8 bits of exponent, 7 of mantissa.
    #[default]
    Bf16,
    /// IEEE 754 half precision: 5 bits of exponent, 10 of mantissa.
    F16,
}

impl std::fmt::Display for HalfKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            HalfKind::Bf16 => "bf16",
            HalfKind::F16 => "f16",
        })
    }
}

/// How many consecutive weights of a row form one vector, the unit that is clustered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum VectorLen {
    /// Scalars.
    #[default]
    One,
    /// Pairs.
    Two,
    /// Four weights.
    Four,
    /// Eight weights.
    Eight,
}

impl VectorLen {
    /// The vector length of so many weights.
    ///
    /// # Errors
    /// [`ClusterError::VectorLength`] for anything but 1, 2, 4 and 8.
    pub const fn new(len: usize) -> Result<Self, ClusterError> {
        match len {
            1 => Ok(VectorLen::One),
            2 => Ok(VectorLen::Two),
            4 => Ok(VectorLen::Four),
            8 => Ok(VectorLen::Eight),
            len => Err(ClusterError::VectorLength { len }),
        }
    }

    /// Weights in a vector.
    pub const fn get(self) -> usize {
        match self {
            VectorLen::One => 1,
            VectorLen::Two => 2,
            VectorLen::Four => 4,
            VectorLen::Eight => 8,
        }
    }
}

/// What happens to weights that are exactly zero (pruned).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum KeepZero {
    /// They are clustered as any other value.
    #[default]
    Free,
    /// One centroid stays exactly zero. Vectors that are entirely zero (after rounding) take no part in the clustering, remain
    /// exactly zero, and receive no gradient.
    Exact,
}

/// How clustered weights follow weights, and so what the backward pass computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum GradientMode {
    /// Soft assignment; the gradient runs back through every repetition (DKM, arXiv 2108.12659, section 3).
    #[default]
    Unrolled,
    /// Soft assignment; the centroids are taken for a fixed point of the repetition, differentiated implicitly (IDKM, arXiv 2312.07759).
    /// Right where the repetition has converged; only its end is kept.
    Implicit,
    /// Hard assignment to the nearest centroid, centroids by Lloyd's algorithm; the gradient passes unchanged.
    StraightThrough,
}

/// Everything that determines a clustering besides the weights and the starting centroids.
///
/// ```
/// use edkm_cluster::{Bits, Spec, Temperature};
///
/// let spec = Spec::new(Bits::new(4)?).with_temperature(Temperature::Relative(0.05)).with_iterations(5);
/// # let _ = spec;
/// # Ok::<(), edkm_cluster::ClusterError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Bits of a palette index.
    pub bits: Bits,
    /// Format of the rounded weights.
    pub half: HalfKind,
    /// Which weights share a palette.
    pub grouping: Grouping,
    /// Softness of the assignment; not used by [`GradientMode::StraightThrough`].
    pub temperature: Temperature,
    /// Repetitions of assignment and update, at least 1.
    pub iterations: usize,
    /// A palette stops repeating when all centroid coordinates moved by less than `tolerance` times the palette's gap (the gap that
    /// [`Temperature::Relative`] refers to). Zero: all repetitions are done.
    pub tolerance: f64,
    /// Weights in a vector.
    pub vector: VectorLen,
    /// What happens to weights that are exactly zero.
    pub keep_zero: KeepZero,
    /// How clustered weights follow weights.
    pub gradient: GradientMode,
    /// Seed of the k-means++ initialisation of vector palettes. Scalar palettes need none.
    pub seed: u64,
}

impl Default for Spec {
    /// Three bits, one palette a tensor, bf16, scalars, three unrolled repetitions at a tenth of the squared gap.
    fn default() -> Self {
        Spec {
            bits: const {
                match Bits::new(3) {
                    Ok(bits) => bits,
                    Err(_) => panic!("3 bits are possible"),
                }
            },
            half: HalfKind::Bf16,
            grouping: Grouping::PerTensor,
            temperature: Temperature::Relative(0.1),
            iterations: 3,
            tolerance: 0.0,
            vector: VectorLen::One,
            keep_zero: KeepZero::Free,
            gradient: GradientMode::Unrolled,
            seed: 0,
        }
    }
}

impl Spec {
    /// The default settings at another width.
    pub fn new(bits: Bits) -> Self {
        Spec {
            bits,
            ..Spec::default()
        }
    }

    /// With another 16-bit format.
    pub fn with_half(self, half: HalfKind) -> Self {
        Spec { half, ..self }
    }

    /// With other groups.
    pub fn with_grouping(self, grouping: Grouping) -> Self {
        Spec { grouping, ..self }
    }

    /// At another temperature.
    pub fn with_temperature(self, temperature: Temperature) -> Self {
        Spec { temperature, ..self }
    }

    /// With another number of repetitions.
    pub fn with_iterations(self, iterations: usize) -> Self {
        Spec { iterations, ..self }
    }

    /// With another tolerance.
    pub fn with_tolerance(self, tolerance: f64) -> Self {
        Spec { tolerance, ..self }
    }

    /// With vectors of another length.
    pub fn with_vector(self, vector: VectorLen) -> Self {
        Spec { vector, ..self }
    }

    /// With another treatment of zeros.
    pub fn with_keep_zero(self, keep_zero: KeepZero) -> Self {
        Spec { keep_zero, ..self }
    }

    /// With another gradient.
    pub fn with_gradient(self, gradient: GradientMode) -> Self {
        Spec { gradient, ..self }
    }

    /// With another seed.
    pub fn with_seed(self, seed: u64) -> Self {
        Spec { seed, ..self }
    }

    /// Coordinates of a centroid.
    pub fn dim(&self) -> usize {
        self.vector.get()
    }

    /// Clusters of a palette.
    pub fn clusters(&self) -> usize {
        self.bits.clusters()
    }

    /// Checks the settings alone.
    ///
    /// # Errors
    /// [`ClusterError::Setting`] for a temperature, tolerance or number of repetitions that cannot be used.
    pub fn check(&self) -> Result<(), ClusterError> {
        self.temperature.check()?;
        if self.iterations == 0 {
            return Err(ClusterError::Setting {
                setting: "the number of iterations",
                value: 0.0,
                needed: "at least 1",
            });
        }
        if !(self.tolerance.is_finite() && self.tolerance >= 0.0) {
            return Err(ClusterError::Setting {
                setting: "the tolerance",
                value: self.tolerance,
                needed: "finite and not negative",
            });
        }
        Ok(())
    }

    /// Checks the settings against a matrix.
    ///
    /// # Errors
    /// A setting out of its range, an empty matrix, columns that are no whole number of vectors, 2^32 weights of one palette or more.
    pub fn check_for(&self, shape: MatrixShape) -> Result<(), ClusterError> {
        self.check()?;
        if shape.is_empty() {
            return Err(ClusterError::Empty {
                rows: shape.rows,
                cols: shape.cols,
            });
        }
        if !shape.cols.is_multiple_of(self.dim()) {
            return Err(ClusterError::RowNotInVectors {
                cols: shape.cols,
                dim: self.dim(),
            });
        }
        let weights = self.grouping.weights_per_palette(shape);
        if u32::try_from(weights).is_err() {
            return Err(ClusterError::TooManyWeights { weights });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_settings_are_refused() {
        let spec = Spec::default();
        assert_eq!(spec.check(), Ok(()));
        for bad in [
            spec.with_iterations(0),
            spec.with_tolerance(-1.0),
            spec.with_tolerance(f64::NAN),
            spec.with_temperature(Temperature::Absolute(0.0)),
        ] {
            assert!(matches!(bad.check(), Err(ClusterError::Setting { .. })), "{bad:?}");
        }
        assert_eq!(VectorLen::new(3), Err(ClusterError::VectorLength { len: 3 }));
        let pairs = spec.with_vector(VectorLen::Two);
        assert_eq!(
            pairs.check_for(MatrixShape::new(4, 5)),
            Err(ClusterError::RowNotInVectors { cols: 5, dim: 2 })
        );
        assert_eq!(
            spec.check_for(MatrixShape::new(0, 5)),
            Err(ClusterError::Empty { rows: 0, cols: 5 })
        );
        assert!(matches!(
            spec.check_for(MatrixShape::new(1 << 20, 1 << 20)),
            Err(ClusterError::TooManyWeights { .. })
        ));
    }
}
