//! Matrix-vector products of 4096 x 11008, the largest matrix of a LLaMA-7B layer, against what the same run reads from memory.
//!
//! `cargo bench -p edkm-palette --bench matvec`. As in a model, each product uses another matrix: together they are larger than
//! any cache. Throughput is counted in the bytes of the matrix as it is stored, so it compares with `read`.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::LazyLock;

use divan::counter::BytesCount;
use divan::Bencher;
use edkm_palette::{read, EntryBytes, EntryView, FormatMetadata, PaletteSpec, PalettizedMatrix};
use rayon::prelude::*;

const ROWS: usize = 4096;
const COLS: usize = 11008;
/// More than the caches hold.
const BYTES: usize = 256 << 20;

fn main() {
    divan::main();
}

/// A stream of numbers that repeats only after longer than a matrix.
fn hash(i: usize) -> u32 {
    ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

fn input() -> Vec<f32> {
    (0..COLS).map(|i| hash(i) as f32 / u32::MAX as f32 - 0.5).collect()
}

/// A matrix of random indices.
fn random(rows: usize, cols: usize, spec: PaletteSpec) -> PalettizedMatrix {
    let palettes: Vec<f32> = (0..spec.groups(rows) * spec.palette_len())
        .map(|i| hash(i) as f32 * 1e-10)
        .collect();
    let indices: Vec<u8> = (0..rows * cols / spec.vector)
        .into_par_iter()
        .map(|i| (hash(i) % spec.clusters() as u32) as u8)
        .collect();
    PalettizedMatrix::pack(rows, cols, spec, &palettes, &indices, None).unwrap()
}

/// Matrices at addresses of their own, `BYTES` together.
fn matrices(spec: PaletteSpec) -> Vec<PalettizedMatrix> {
    let matrix = random(ROWS, COLS, spec);
    let mut metadata = FormatMetadata::new();
    metadata.insert("w", &matrix);
    let entries = matrix.to_entries("w");
    let copy = || {
        read("w", &metadata, |name| {
            let entry = entries.iter().find(|entry| entry.name == name)?;
            let bytes = EntryBytes::Copied(&entry.bytes);
            Some(EntryView {
                dtype: entry.dtype,
                shape: entry.shape.clone(),
                bytes,
            })
        })
    };
    (0..BYTES.div_ceil(matrix.size_bytes()))
        .map(|_| copy().unwrap())
        .collect()
}

fn bench_packed(bencher: Bencher<'_, '_>, spec: PaletteSpec) {
    let (matrices, x, mut y) = (matrices(spec), input(), vec![0.0; ROWS]);
    let mut next = matrices.iter().cycle();
    bencher
        .counter(BytesCount::new(matrices[0].size_bytes()))
        .bench_local(|| {
            if let Some(matrix) = next.next() {
                matrix.matvec(black_box(&x), &mut y).unwrap();
            }
        });
}

#[divan::bench(args = [1, 2, 3, 4, 5, 6, 7, 8])]
fn packed(bencher: Bencher<'_, '_>, bits: u8) {
    bench_packed(bencher, PaletteSpec::new(bits));
}

/// A matrix of 1024 x 4096, the same each time: where this is no faster than `packed`, it is the operations that take the time, not
/// the memory.
fn bench_in_cache(bencher: Bencher<'_, '_>, spec: PaletteSpec) {
    let (rows, cols) = (1024, 4096);
    let (matrix, x, mut y) = (random(rows, cols, spec), input(), vec![0.0; rows]);
    bencher
        .counter(BytesCount::new(matrix.size_bytes()))
        .bench_local(|| matrix.matvec(black_box(&x[..cols]), &mut y).unwrap());
}

#[divan::bench(args = [1, 2, 3, 4, 5, 6, 7, 8])]
fn packed_in_cache(bencher: Bencher<'_, '_>, bits: u8) {
    bench_in_cache(bencher, PaletteSpec::new(bits));
}

#[divan::bench(args = [1, 2, 3, 4, 5, 6, 7, 8])]
fn packed_in_cache_in_groups_of_8(bencher: Bencher<'_, '_>, bits: u8) {
    bench_in_cache(
        bencher,
        PaletteSpec {
            group_rows: 8.try_into().ok(),
            ..PaletteSpec::new(bits)
        },
    );
}

#[divan::bench(args = [8, 16, 24, 32])]
fn packed_3_bits_in_groups(bencher: Bencher<'_, '_>, group_rows: usize) {
    bench_packed(
        bencher,
        PaletteSpec {
            group_rows: group_rows.try_into().ok(),
            ..PaletteSpec::new(3)
        },
    );
}

#[divan::bench(args = [2, 4, 8])]
fn packed_6_bits_in_vectors(bencher: Bencher<'_, '_>, vector: usize) {
    bench_packed(
        bencher,
        PaletteSpec {
            vector,
            ..PaletteSpec::new(6)
        },
    );
}

static FLOATS: LazyLock<Vec<f32>> = LazyLock::new(|| (0..BYTES / 4).into_par_iter().map(|i| hash(i) as f32).collect());

/// The f32 product: rows in parallel, 64 sums a row, which keeps up with memory.
#[divan::bench]
fn f32(bencher: Bencher<'_, '_>) {
    let (x, mut y) = (input(), vec![0.0f32; ROWS]);
    let weights = &FLOATS[..ROWS * COLS];
    bencher.counter(BytesCount::new(ROWS * COLS * 4)).bench_local(|| {
        let rows = weights.par_chunks_exact(COLS).with_min_len(64);
        y.par_iter_mut().zip(rows).for_each(|(y, row)| {
            let mut sums = [0.0f32; 64];
            for (w, x) in row.as_chunks::<64>().0.iter().zip(black_box(&x).as_chunks::<64>().0) {
                sums.iter_mut()
                    .zip(w.iter().zip(x))
                    .for_each(|(sum, (w, x))| *sum += w * x);
            }
            *y = sums.iter().sum();
        });
    });
}

/// What all threads together read from memory: sums of words, nothing written.
#[divan::bench]
fn read_bandwidth(bencher: Bencher<'_, '_>) {
    let words: &[u32] = bytemuck::cast_slice(&FLOATS);
    let offset = Cell::new(0);
    let len = 32 << 20;
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        let start = offset.get();
        offset.set((start + len / 4) % (words.len() - len / 4 + 1));
        words[start..][..len / 4]
            .par_chunks(1 << 20)
            .map(|chunk| {
                let mut sums = [0u32; 64];
                for words in chunk.as_chunks::<64>().0 {
                    sums.iter_mut()
                        .zip(words)
                        .for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
                }
                sums.iter().fold(0u32, |sum, &part| sum.wrapping_add(part))
            })
            .reduce(|| 0, u32::wrapping_add)
    });
}
