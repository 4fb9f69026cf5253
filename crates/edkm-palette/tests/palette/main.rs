//! Tests of the crate's public interface.

mod common;
mod format;
mod pack;
mod products;
