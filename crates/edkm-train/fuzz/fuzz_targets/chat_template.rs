#![no_main]

#[allow(dead_code)]
#[path = "../../tests/fuzz/bodies.rs"]
mod bodies;
mod folder;

libfuzzer_sys::fuzz_target!(|input: &[u8]| bodies::chat_template(&folder::FOLDER, input));
