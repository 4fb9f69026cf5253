//! The examples live in `examples/`.
