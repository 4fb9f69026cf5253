//! CUDA kernels of a LLaMA training step with clustered weights and of inference from packed ones, and the launches that make ops of them.
//!
//! Each op is a function over a [`Runtime`]: something that holds memory, launches kernels by name and multiplies matrices. The GPU is one (feature
//! `driver`, by cudarc, kernels compiled at first use by NVRTC from the sources in this crate); the tests bring another that compiles the same
//! sources for the host and runs them a block at a time. So the kernels *and* their launches (grids, arguments, strides, scratch memory) are
//! tested against `edkm-kernels` on machines without a GPU. What that does not show: speed, races between blocks and warps, and the rounding of
//! the GPU's own `expf` and `logf`.
//!
//! Axes are those of `edkm-kernels`; gradients are added, forward results overwrite. Every op is deterministic: sums run in an order fixed by the
//! shapes, or in integers.
//!
//! # Panics
//! A slice whose length does not match the stated axes is an error in the calling program, and panics with a message that names the slice. A size that nothing
//! holds yet, of memory to allocate or of a launch, is an error where it is too large: [`TooLarge`].

pub mod adamw;
pub mod attention;
pub mod cached_attention;
mod check;
pub mod clustering;
pub mod cross_entropy;
pub mod dense;
pub mod digest;
pub mod distillation;
#[cfg(feature = "driver")]
pub mod driver;
pub mod elementwise;
pub mod embedding;
pub mod halves;
pub mod hidden_distance;
pub mod likelihood;
mod logits;
pub mod matrix;
mod memory;
pub mod packed;
pub mod product;
pub mod repetitions;
pub mod rms_norm;
pub mod rotary;
pub mod row_scales;
mod runtime;
pub mod source;
pub mod swiglu;

pub use check::TooLarge;
pub use memory::{Array, Slice, SliceMut};
pub use runtime::{Argument, Runtime};
