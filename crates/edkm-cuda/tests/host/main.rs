//! The CUDA sources, compiled for the host and run a block at a time, against the CPU's kernels and the definitions.

mod clustering;
mod ops;
mod simulator;
