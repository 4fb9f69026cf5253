//! CPU kernels on slices of `f32`: what a training step of a LLaMA needs, forward and backward.
//!
//! There is no tensor type here. A kernel takes slices in row-major order and says their axes in its documentation:
//!
//! | letter | axis |
//! |---|---|
//! | B | batch |
//! | S | sequence |
//! | N | tokens, B x S |
//! | H | hidden |
//! | F | intermediate (of the feed-forward network) |
//! | A | query heads |
//! | G | key/value heads; A is a multiple of G |
//! | D | numbers in a head |
//! | V | vocabulary |
//!
//! # What every kernel promises
//!
//! - **Threads do not change results.** Work is cut into pieces by the shapes alone, never by the number of threads, and
//!   sums over pieces are taken in a fixed order. Results are bitwise equal in a rayon pool of any size.
//! - **Vector width does not change results** of the kernels written here: sums run in a fixed number of lanes, and
//!   multiply-adds are fused everywhere (matrix products are those of the crate `gemm`, which makes no such promise).
//! - **Gradients are added** to what the output slices hold (`+=`), so that a tensor with several readers needs no
//!   temporary. Forward results overwrite.
//!
//! # Panics
//!
//! A slice whose length does not match the stated axes, or an index beyond its table, is an error in the calling program:
//! kernels check this on entry and panic with a message that names the slice. Shapes that come from a file or a user are to
//! be validated before they reach this crate.
//!
//! # Threads
//!
//! Kernels run in the current rayon pool. A program that makes many short calls should make them from within one
//! (`pool.install(..)`): a call from outside hands every kernel over to the pool and sleeps until it is done.
//!
//! # Memory
//!
//! Steps ask for large blocks again and again; a program that trains is faster with [`LargePages`] as its allocator.

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod distillation;
pub mod elementwise;
pub mod embedding;
pub mod hidden_distance;
pub mod matmul;
pub mod rms_norm;
pub mod rotary;
pub mod swiglu;

mod check;
mod disjoint;
mod exp;
mod heap;
mod kept_blocks;
pub mod lanes;
mod large_pages;
mod logits;
mod parallel;
mod product;
mod scratch;
#[cfg(test)]
mod testing;
mod transpose;

pub use large_pages::LargePages;
