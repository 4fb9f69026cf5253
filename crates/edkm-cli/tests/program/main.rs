//! The program as its users meet it.

mod bad_input;
mod bench;
mod clustering;
mod common;
mod layers;
mod mishaps;
mod eval;
mod resume;
mod whole_path;
