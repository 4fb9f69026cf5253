//! Differentiable k-means on slices.
