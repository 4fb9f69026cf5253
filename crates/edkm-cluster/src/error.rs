//! What can be wrong with a request to cluster.

use crate::HalfKind;

/// Why a clustering was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The number of bits is outside 1 to 8.
    #[error("{bits} bits asked for: a palette index has 1 to 8 bits")]
    Bits {
        /// What was asked for.
        bits: usize,
    },
    /// The number of weights in a vector is not one that is supported.
    #[error("vectors of {len} weights asked for: 1, 2, 4 and 8 are possible")]
    VectorLength {
        /// What was asked for.
        len: usize,
    },
    /// Rows do not divide into vectors.
    #[error(
        "a row of {cols} weights does not divide into vectors of {dim}: choose a vector length that divides {cols}"
    )]
    RowNotInVectors {
        /// Weights in a row.
        cols: usize,
        /// Weights in a vector.
        dim: usize,
    },
    /// A setting is not a usable number.
    #[error("{setting} is {}: it must be {needed}", short(*value))]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// What was given.
        value: f64,
        /// What it must be.
        needed: &'static str,
    },
    /// A matrix without a weight.
    #[error("a {rows} x {cols} matrix has no weights to cluster")]
    Empty {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// More weights than 32 bits count share a palette.
    #[error("a palette for {weights} weights: at most 2^32 - 1 can share one, choose smaller groups")]
    TooManyWeights {
        /// Weights of one palette.
        weights: usize,
    },
    /// A slice has the wrong length.
    #[error("{what}: expected {expected} elements, got {got}")]
    Length {
        /// What the slice holds.
        what: &'static str,
        /// Elements that were needed.
        expected: usize,
        /// Elements that were given.
        got: usize,
    },
    /// A weight is NaN or infinite.
    #[error("weight {index} is {value}: only finite weights can be clustered")]
    NonFinite {
        /// Position in the row-major matrix.
        index: usize,
        /// The weight.
        value: f32,
    },
    /// A weight rounds to infinity in the 16-bit format.
    #[error("weight {index} is {value:e}, beyond the largest {half} number: scale the weights{}", if *.half == HalfKind::F16 { " or use bf16" } else { "" })]
    OutOfRange {
        /// Position in the row-major matrix.
        index: usize,
        /// The weight.
        value: f32,
        /// The 16-bit format.
        half: HalfKind,
    },
    /// A centroid is NaN or infinite.
    #[error("centroid {cluster} of palette {palette} has the value {value}: start from finite centroids")]
    CentroidNotFinite {
        /// Palette (group of output channels).
        palette: usize,
        /// Cluster in the palette.
        cluster: usize,
        /// The offending coordinate.
        value: f64,
    },
    /// An importance is negative or not finite.
    #[error("importance {index} is {value}: importances are finite and not negative")]
    Importance {
        /// Position in the row-major matrix.
        index: usize,
        /// The importance.
        value: f32,
    },
    /// Centroids do not fit the matrix and the settings.
    #[error(
        "centroids are {got_palettes} palettes of {got_clusters} x {got_dim}, the matrix and its settings need \
         {palettes} palettes of {clusters} x {dim}"
    )]
    Centroids {
        /// Palettes that were needed.
        palettes: usize,
        /// Clusters that were needed in each.
        clusters: usize,
        /// Coordinates that were needed in each cluster.
        dim: usize,
        /// Palettes that were given.
        got_palettes: usize,
        /// Clusters that were given in each.
        got_clusters: usize,
        /// Coordinates that were given in each cluster.
        got_dim: usize,
    },
    /// Vectors, where only single weights will do.
    #[error(
        "vectors of {dim} weights cannot be clustered by counts of single weights: cluster the weights themselves"
    )]
    CountedVectors {
        /// Weights in a vector.
        dim: usize,
    },
    /// A trajectory is used with another matrix shape or other settings than it was made with.
    #[error("the trajectory was made with another {what}: use the one that was prepared and iterated")]
    OtherTrajectory {
        /// What differs.
        what: &'static str,
    },
}

/// A number in few characters: very large and very small ones have an exponent.
fn short(value: f64) -> String {
    match value == 0.0 || !value.is_finite() || (1e-6..1e9).contains(&value.abs()) {
        true => value.to_string(),
        false => format!("{value:e}"),
    }
}
