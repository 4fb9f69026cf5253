//! A bounded run of each fuzz target: small files as they should be, and damaged copies of them. `EDKM_FUZZ=N` tries N of them.

mod bodies;
// the folders that its cases begin with are the seeds here
#[allow(dead_code)]
#[path = "../hostile/corpus.rs"]
mod corpus;

use std::fs;
use std::path::Path;

use edkm_testkit::mutations::{count, mutated};

fn run(seeds: &[Vec<u8>], usual: usize, body: fn(&Path, &[u8])) {
    let folder = tempfile::tempdir().unwrap();
    corpus::valid_folder(folder.path());
    fs::rename(
        folder.path().join("model.safetensors"),
        folder.path().join("one.safetensors"),
    )
    .unwrap();
    mutated(seeds, count(usual)).for_each(|input| body(folder.path(), &input));
}

/// A file of the small models, plain and palettized.
fn seeds(file: &str) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    [corpus::valid_folder as fn(&Path), corpus::palettized_folder]
        .map(|make| {
            make(folder.path());
            fs::read(folder.path().join(file)).unwrap()
        })
        .into()
}

#[test]
fn config() {
    run(&seeds("config.json"), 20_000, bodies::config);
}

#[test]
fn weights() {
    run(&seeds("model.safetensors"), 10_000, bodies::weights);
}

#[test]
fn index() {
    let index = br#"{"metadata": {"total_size": 1}, "weight_map": {"model.norm.weight": "one.safetensors"}}"#;
    run(&[index.to_vec()], 10_000, bodies::index);
}
