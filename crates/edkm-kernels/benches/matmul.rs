//! The product of a linear layer at the size of LLaMA-7B, 512 x 4096 x 4096, in items (floating point operations) a second, and why it is
//! `gemm` 0.19 on slices: dfdx's own matmul (`gemm` 0.15 behind copies of its operands) is measured beside it, and the machine's floor,
//! the same kernel on matrices that lie in the cache and a copy of memory.
//!
//! `cargo bench -p edkm-kernels --bench matmul`

use std::hint::black_box;

use dfdx::prelude::*;
use divan::counter::{BytesCount, ItemsCount};
use divan::Bencher;
use edkm_kernels::matmul::{nn, nt, tn, Accumulate};

const TOKENS: usize = 512;
const INPUTS: usize = 4096;
const OUTPUTS: usize = 4096;
const FLOP: usize = 2 * TOKENS * INPUTS * OUTPUTS;

fn main() {
    // inside the pool a call costs no hand-over, as in the program
    rayon::scope(|_| divan::main());
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1021) as f32 / 1021.0 - 0.5).collect()
}

#[divan::bench(sample_count = 7, sample_size = 1)]
fn forward_ours(bencher: Bencher<'_, '_>) {
    let (x, w, mut y) = (
        numbers(TOKENS * INPUTS),
        numbers(OUTPUTS * INPUTS),
        numbers(TOKENS * OUTPUTS),
    );
    bencher.counter(ItemsCount::new(FLOP)).bench_local(|| {
        nt(
            TOKENS,
            OUTPUTS,
            INPUTS,
            &x,
            &w,
            black_box(&mut y),
            Accumulate::Overwrite,
        )
    });
}

#[divan::bench(sample_count = 7, sample_size = 1)]
fn forward_dfdx(bencher: Bencher<'_, '_>) {
    let dev = Cpu::default();
    let x = dev.tensor_from_vec(numbers(TOKENS * INPUTS), (TOKENS, INPUTS));
    let w = dev.tensor_from_vec(numbers(OUTPUTS * INPUTS), (OUTPUTS, INPUTS));
    bencher
        .counter(ItemsCount::new(FLOP))
        .bench_local(|| x.clone().matmul(w.clone().permute::<(usize, usize), Axes2<1, 0>>()));
}

#[divan::bench(sample_count = 7, sample_size = 1)]
fn gradient_of_the_input_ours(bencher: Bencher<'_, '_>) {
    let (dy, w, mut dx) = (
        numbers(TOKENS * OUTPUTS),
        numbers(OUTPUTS * INPUTS),
        numbers(TOKENS * INPUTS),
    );
    bencher.counter(ItemsCount::new(FLOP)).bench_local(|| {
        nn(
            TOKENS,
            INPUTS,
            OUTPUTS,
            &dy,
            &w,
            black_box(&mut dx),
            Accumulate::Overwrite,
        )
    });
}

#[divan::bench(sample_count = 7, sample_size = 1)]
fn gradient_of_the_weight_ours(bencher: Bencher<'_, '_>) {
    let (dy, x, mut dw) = (
        numbers(TOKENS * OUTPUTS),
        numbers(TOKENS * INPUTS),
        numbers(OUTPUTS * INPUTS),
    );
    bencher.counter(ItemsCount::new(FLOP)).bench_local(|| {
        tn(
            OUTPUTS,
            INPUTS,
            TOKENS,
            &dy,
            &x,
            black_box(&mut dw),
            Accumulate::Overwrite,
        )
    });
}

/// The floor: operands that lie in the second-level cache.
#[divan::bench(sample_count = 50, sample_size = 4)]
fn floor_product_in_cache(bencher: Bencher<'_, '_>) {
    const SIDE: usize = 384;
    let (a, b, mut c) = (numbers(SIDE * SIDE), numbers(SIDE * SIDE), numbers(SIDE * SIDE));
    bencher
        .counter(ItemsCount::new(2 * SIDE * SIDE * SIDE))
        .bench_local(|| nn(SIDE, SIDE, SIDE, &a, &b, black_box(&mut c), Accumulate::Overwrite));
}

/// The floor: the weight copied once, on one thread.
#[divan::bench(sample_count = 15, sample_size = 1)]
fn floor_copy(bencher: Bencher<'_, '_>) {
    let (w, mut copy) = (numbers(OUTPUTS * INPUTS), numbers(OUTPUTS * INPUTS));
    bencher
        .counter(BytesCount::of_slice(&w))
        .bench_local(|| black_box(&mut copy).copy_from_slice(&w));
}
