//! The program as its users meet it.

mod bad_input;
mod clustering;
mod bench;
mod common;
mod resume;
mod whole_path;
