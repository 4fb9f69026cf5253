//! Tests of the crate's public interface.

mod common;
mod coreml;
mod format;
mod pack;
mod products;
mod python;
