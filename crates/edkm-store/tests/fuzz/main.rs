//! A bounded run of each fuzz target: its corpus, and damaged copies of it. `EDKM_FUZZ=N` tries N of them.

mod bodies;

use std::path::Path;

use edkm_testkit::mutations::{count, mutated};

fn run(target: &str, usual: usize, body: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = corpus.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<_> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
    mutated(&seeds, count(usual)).for_each(|input| body(&input));
}

#[test]
fn decode_planes() {
    run("decode_planes", 20_000, bodies::decode_planes);
}

#[test]
fn expand_rows() {
    run("expand_rows", 20_000, bodies::expand_rows);
}

#[test]
fn parse_spec() {
    run("parse_spec", 20_000, bodies::parse_spec);
}

#[test]
fn round_trip() {
    run("round_trip", 5_000, bodies::round_trip);
}

#[test]
fn whole_store() {
    run("whole_store", 300, bodies::whole_store);
}
