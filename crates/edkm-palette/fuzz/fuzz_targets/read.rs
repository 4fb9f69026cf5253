#![no_main]

#[path = "../../tests/palette/fuzz_body.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::read_file(input));
