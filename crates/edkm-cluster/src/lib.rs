//! Differentiable k-means (DKM, arXiv 2108.12659) on weight matrices, exact and without the attention map (eDKM, arXiv 2309.00964).
//!
//! A matrix of N weights is replaced by *clustered* weights: each a mixture of K = 2^bits centroids by a soft assignment. Repeated T times,
//!
//! ```text
//! D_ik = |w_i - c_k|^2,   A_ik = softmax_k(-D_ik / tau),   c_k <- sum_i A_ik w_i / sum_i A_ik;      then   w~_i = sum_k A_ik c_k
//! ```
//!
//! and the gradient of w~ runs back through all of it to w. Weights are rounded to 16 bits first, so that at most 65,536 rows of A differ:
//! they are computed once for each distinct value, in forward and backward, in f64. Sums do not depend on the number of threads.
//!
//! ```
//! use edkm_cluster::{Bits, MatrixShape, Prepared, Spec};
//!
//! let shape = MatrixShape::new(2, 4);
//! let weights = [0.11, -0.52, 0.48, 0.09, -0.49, 0.52, 0.1, -0.5];
//! let spec = Spec::new(Bits::new(2)?);
//!
//! let prepared = Prepared::new(&weights, shape, &spec)?;
//! let start = prepared.initial()?; // later steps start from `trajectory.last()` of the step before
//! let trajectory = prepared.iterate(&start)?;
//!
//! let mut clustered = [0.0; 8];
//! trajectory.clustered_into(&weights, shape, &spec, &mut clustered)?;
//! let mut grad = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]; // dL/dW~
//! trajectory.backward(&weights, shape, &spec, &mut grad)?; // dL/dW
//!
//! let palette = trajectory.last();
//! let indices = Prepared::new(&weights, shape, &spec)?.assign(palette)?; // the compressed matrix
//! assert!((palette.group(0)[indices[1] as usize] + 0.5).abs() < 0.03);
//! # Ok::<(), edkm_cluster::ClusterError>(())
//! ```
//!
//! # Memory
//! Beyond the caller's slices no buffer of the size of the matrix is made, in no direction.

pub mod bench;
mod bits;
mod centroids;
mod counted;
mod dispatch;
pub mod elsewhere;
mod engine;
mod error;
mod fingerprint;
mod fixed_point;
mod half_key;
mod init;
mod lanes;
mod parallel;
mod prepared;
mod repeat;
mod scalar;
mod shape;
mod spec;
mod target;
mod temperature;
mod trajectory;
mod vector;

pub use bits::Bits;
pub use centroids::Centroids;
pub use counted::{Counted, KeyCounts};
pub use error::ClusterError;
pub use init::Initialization;
pub use prepared::Prepared;
pub use shape::{Grouping, MatrixShape};
pub use spec::{GradientMode, HalfKind, KeepZero, Spec, VectorLen};
pub use temperature::Temperature;
pub use trajectory::Trajectory;
