//! Products with packed matrices.
//!
//! A tile's rows are the lanes of a vector register: every lane sums its own row, and no sum runs across lanes. The order of
//! the additions in a row is the same in every path (see [`block`]), so all paths give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
mod dot;
mod drive;
mod fused;
mod isa;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod ways;

#[cfg(test)]
mod tests;

pub(crate) use drive::{matmul, matvec, Source};
pub(crate) use isa::Isa;
