//! Tests of the crate's public interface.

mod common;
mod coreml;
mod file;
mod format;
mod fuzz;
mod fuzz_body;
mod pack;
mod products;
mod python;
