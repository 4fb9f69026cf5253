//! The program `edkm`.
fn main() {}
