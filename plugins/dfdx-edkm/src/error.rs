//! What can go wrong.

use edkm_cluster::ClusterError;
use edkm_palette::PaletteError;
use edkm_store::StoreError;

use crate::optim::StepError;

/// What can go wrong inside an op of this crate.
///
/// dfdx fixes the error type of composed modules to the device's own, which has no room for these: an op that fails puts its
/// reason into the tape's [`crate::Failure`] and returns a device error. [`crate::backward`] gives the reason itself.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EdkmError {
    /// The storage backend could not keep a tensor or give it back.
    #[error("the store of tensors saved for backward failed: {0}")]
    Store(#[from] StoreError),
    /// A weight could not be clustered.
    #[error("clustering the weight of {op} failed: {source}")]
    Cluster {
        /// The op or layer.
        op: String,
        /// The reason.
        source: ClusterError,
    },
    /// Tensors of run-time shape that do not fit together.
    #[error("{op}: expected {expected}, got {got}")]
    Shape {
        /// The op.
        op: &'static str,
        /// What the op needs, with axes.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// A branch of `Residual` or `SplitInto` went with another tape, whose store rounds where this one's does not.
    #[error("a branch of this forward pass was saved by the store of another tape, which rounds: make each tape right before its own forward pass")]
    OtherTape,
    /// An op adds to a gradient that was taken for good.
    #[error("the gradient of a parameter was taken with its part, and an op before the beginning of that part uses it too: say `begin_part` before its first use")]
    GradientTaken,
    /// An optimizer that stands behind dfdx's trait could not make its update.
    #[error(transparent)]
    Optimizer(Box<StepError>),
    /// The device (out of memory, usually).
    #[error("the device failed: {0}")]
    Device(String),
}

/// Why a weight could not be packed ([`crate::Clustering::palettize`]).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PalettizeError {
    /// It could not be clustered.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Its palettes could not be stored.
    #[error(transparent)]
    Palette(#[from] PaletteError),
}

/// Why a model could not be packed ([`crate::nn::IntoPacked`]).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name}: {source}")]
pub struct PackError {
    /// The parameter, by its name in dfdx's files.
    pub name: String,
    /// The reason.
    pub source: PalettizeError,
}
