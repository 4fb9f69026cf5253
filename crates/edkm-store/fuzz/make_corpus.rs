//! Writes the seeds of the corpus, one of each form that a decoder knows:
//! `cargo run --bin make_corpus` in this folder.

use std::fs;
use std::io;
use std::path::Path;

use edkm_store::{Codec, PlaneCodec, Unique};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |target: &str, name: &str, seed: &[u8]| {
        fs::create_dir_all(corpus.join(target))?;
        fs::write(corpus.join(target).join(name), seed)
    };
    for (name, size, bytes) in tensors() {
        let raw = [&[size as u8], &bytes[..]].concat();
        write("round_trip", name, &raw)?;
        if let Some(encoded) = PlaneCodec::Adaptive.encode(&bytes, size) {
            let len = (bytes.len() as u16).to_le_bytes();
            write("decode_planes", name, &[&[size as u8, len[0], len[1]], &encoded[..]].concat())?;
        }
        if let Some(unique) = Unique::of_rows(&bytes, size, None).filter(|unique| unique.first_rows.len() < 256) {
            let row = |&first: &u32| &bytes[first as usize * size..][..size];
            let table: Vec<u8> = unique.first_rows.iter().flat_map(row).copied().collect();
            let rows = ((bytes.len() / size) as u16).to_le_bytes();
            let head = [size as u8, unique.bits as u8, rows[0], rows[1], unique.first_rows.len() as u8];
            write("expand_rows", name, &[&head, &table[..], &unique.index[..]].concat())?;
        }
    }
    // saves of several lengths, loads and drops in between, over all layers, over the disk alone, and over none
    let actions = [[0, 0, 1, 3], [1, 0, 9, 7], [0, 0, 1, 3], [2, 0, 0, 1], [0, 64, 2, 200], [3, 0, 0, 0], [2, 0, 0, 0], [1, 1, 1, 1]].concat();
    for (name, layers, budget) in [("all", 15, 4), ("disk", 8, 0), ("memory", 0, 0)] {
        write("whole_store", name, &[&[layers, budget], &actions[..]].concat())?;
    }
    write("parse_spec", "all", b"marshal,uniquify,shard,compress=lz4,spill=/tmp:2GiB,overlap=1.5MB,bf16")?;
    write("parse_spec", "memory", b"memory, compress")
}

/// Small tensors, each of a kind that is kept in another form, with the size of their elements or rows.
fn tensors() -> Vec<(&'static str, usize, Vec<u8>)> {
    let noise = |i: u32| i.wrapping_mul(2_654_435_761) ^ i.wrapping_mul(40_503) >> 7;
    let floats = |count: u32| (0..count).flat_map(move |i| (noise(i) as f32 / 4e9 - 0.5).to_le_bytes());
    vec![
        ("zeros", 4, vec![0; 600]),
        ("floats", 4, floats(2100).collect()),
        ("halves", 2, floats(2100).collect::<Vec<_>>().chunks_exact(4).flat_map(|x| [x[2], x[3]]).collect()),
        ("repeats", 1, floats(40).collect::<Vec<_>>().repeat(5)),
        ("rows", 16, (0..100u32).flat_map(|i| [(i * 7 % 12) as u8; 16]).collect()),
        ("one_row", 8, vec![3; 400]),
        ("tail", 4, [vec![1; 301], vec![2; 300]].concat()),
    ]
}
