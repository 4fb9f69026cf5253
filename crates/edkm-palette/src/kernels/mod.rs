//! Products with packed matrices.
//!
//! A tile's rows are the lanes of a vector register: every lane sums its own row, and no sum runs across lanes. The order of
//! the additions in a row is the same in every path (see [`block`]), so all paths give the same bits.

mod block;
mod drive;
mod lanes;
mod portable;

pub(crate) use drive::{matmul, matvec, Source};
