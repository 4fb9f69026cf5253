//! The kernels that are no matrix products (those are in `matmul.rs`) but distillation, distances of hidden states and the attention of inference, at the sizes of a LLaMA-7B layer with
//! 512 tokens, beside what the machine can do: bytes a second against a copy of memory, floating point operations a second against a product of matrices in the cache.
//!
//! Bytes are those that must be read and written once. `cargo bench -p edkm-kernels --bench ops`

use std::hint::black_box;

use divan::counter::{BytesCount, ItemsCount};
use divan::Bencher;
use edkm_kernels::{adamw, attention, cross_entropy, elementwise, embedding, rms_norm, rotary, swiglu};

const TOKENS: usize = 512;
const HIDDEN: usize = 4096;
const INTERMEDIATE: usize = 11008;
const HEADS: usize = 32;
const HEAD_DIM: usize = 128;
const VOCABULARY: usize = 32000;

fn main() {
    // inside the pool a call costs no hand-over, as in the program
    rayon::scope(|_| divan::main());
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1021) as f32 / 1021.0 - 0.5).collect()
}

/// Slices of so many numbers, read or written once.
fn bytes(numbers: usize) -> BytesCount {
    BytesCount::of_many::<f32>(numbers)
}

mod floor {
    use super::*;
    use rayon::prelude::*;

    /// A copy of memory: reads and writes 64 MiB on all threads.
    #[divan::bench(sample_count = 15, sample_size = 1)]
    fn copy(bencher: Bencher<'_, '_>) {
        const PART: usize = 1 << 18;
        let (from, mut to) = (numbers(1 << 24), numbers(1 << 24));
        bencher.counter(bytes(2 << 24)).bench_local(|| {
            let parts = black_box(&mut to).par_chunks_mut(PART).zip(from.par_chunks(PART));
            parts.for_each(|(to, from)| to.copy_from_slice(from));
        });
    }

    /// Products of 256 x 256 x 256, one for each thread: what the vector units give.
    #[divan::bench(sample_count = 15, sample_size = 1)]
    fn product(bencher: Bencher<'_, '_>) {
        use edkm_kernels::matmul::{nt, Accumulate};
        const N: usize = 256;
        let (x, w) = (numbers(N * N), numbers(N * N));
        let mut out = vec![vec![0.0f32; N * N]; 8 * rayon::current_num_threads()];
        let operations = 2 * N * N * N * out.len();
        bencher.counter(ItemsCount::new(operations)).bench_local(|| {
            black_box(&mut out)
                .par_iter_mut()
                .for_each(|y| nt(N, N, N, &x, &w, y, Accumulate::Overwrite));
        });
    }
}

mod rms_norm_512x4096 {
    use super::*;

    #[divan::bench(sample_count = 51)]
    fn forward(bencher: Bencher<'_, '_>) {
        let (x, weight, mut out) = (numbers(TOKENS * HIDDEN), numbers(HIDDEN), numbers(TOKENS * HIDDEN));
        bencher
            .counter(bytes(2 * TOKENS * HIDDEN))
            .bench_local(|| rms_norm::forward(&x, &weight, 1e-5, black_box(&mut out)));
    }

    #[divan::bench(sample_count = 51)]
    fn backward(bencher: Bencher<'_, '_>) {
        let (x, weight, grad_out) = (numbers(TOKENS * HIDDEN), numbers(HIDDEN), numbers(TOKENS * HIDDEN));
        let (mut grad_x, mut grad_weight) = (numbers(TOKENS * HIDDEN), numbers(HIDDEN));
        bencher.counter(bytes(4 * TOKENS * HIDDEN)).bench_local(|| {
            rms_norm::backward(&x, &weight, 1e-5, &grad_out, black_box(&mut grad_x), &mut grad_weight);
        });
    }
}

mod swiglu_512x11008 {
    use super::*;
    const LEN: usize = TOKENS * INTERMEDIATE;

    #[divan::bench(sample_count = 31)]
    fn forward(bencher: Bencher<'_, '_>) {
        let (gate, up, mut out) = (numbers(LEN), numbers(LEN), numbers(LEN));
        bencher
            .counter(bytes(3 * LEN))
            .bench_local(|| swiglu::forward(&gate, &up, black_box(&mut out)));
    }

    #[divan::bench(sample_count = 31)]
    fn backward(bencher: Bencher<'_, '_>) {
        let (gate, up, grad_out) = (numbers(LEN), numbers(LEN), numbers(LEN));
        let (mut grad_gate, mut grad_up) = (numbers(LEN), numbers(LEN));
        bencher
            .counter(bytes(7 * LEN))
            .bench_local(|| swiglu::backward(&gate, &up, &grad_out, black_box(&mut grad_gate), &mut grad_up));
    }
}

#[divan::bench(sample_count = 51)]
fn rotary_512x32x128(bencher: Bencher<'_, '_>) {
    let frequencies: Vec<f64> = (0..HEAD_DIM / 2)
        .map(|i| 1e4f64.powf(-2.0 * i as f64 / HEAD_DIM as f64))
        .collect();
    let table = rotary::Table::new(&frequencies, TOKENS);
    let mut x = numbers(TOKENS * HEADS * HEAD_DIM);
    bencher
        .counter(bytes(2 * x.len()))
        .bench_local(|| rotary::apply(&table, black_box(&mut x), HEADS, TOKENS, 0, rotary::Direction::Forward));
}

#[divan::bench(sample_count = 51)]
fn residual_512x4096(bencher: Bencher<'_, '_>) {
    let (a, b, mut out) = (
        numbers(TOKENS * HIDDEN),
        numbers(TOKENS * HIDDEN),
        numbers(TOKENS * HIDDEN),
    );
    bencher
        .counter(bytes(3 * TOKENS * HIDDEN))
        .bench_local(|| elementwise::add(&a, &b, black_box(&mut out)));
}

mod embedding_512_of_32000x4096 {
    use super::*;

    fn ids() -> Vec<u32> {
        (0..TOKENS).map(|i| (i * 7919 % VOCABULARY) as u32).collect()
    }

    #[divan::bench(sample_count = 51)]
    fn gather(bencher: Bencher<'_, '_>) {
        let (table, ids, mut out) = (numbers(VOCABULARY * HIDDEN), ids(), numbers(TOKENS * HIDDEN));
        bencher
            .counter(bytes(2 * TOKENS * HIDDEN))
            .bench_local(|| embedding::gather(&table, &ids, black_box(&mut out)));
    }

    #[divan::bench(sample_count = 51)]
    fn scatter_add(bencher: Bencher<'_, '_>) {
        let (mut grad_table, ids, grad_out) = (numbers(VOCABULARY * HIDDEN), ids(), numbers(TOKENS * HIDDEN));
        bencher
            .counter(bytes(3 * TOKENS * HIDDEN))
            .bench_local(|| embedding::scatter_add(&ids, &grad_out, black_box(&mut grad_table)));
    }
}

/// Causal attention: of the S x S scores half is computed. Forward multiplies twice over each, backward five times.
mod attention_32x128 {
    use super::*;

    fn dims(seq: usize) -> attention::Dims {
        attention::Dims {
            batch: 1,
            seq,
            heads: HEADS,
            kv_heads: HEADS,
            head_dim: HEAD_DIM,
            scale: (HEAD_DIM as f32).sqrt().recip(),
        }
    }

    fn operations(seq: usize, products: usize) -> ItemsCount {
        ItemsCount::new(2 * products * seq * seq / 2 * HEADS * HEAD_DIM)
    }

    #[divan::bench(sample_count = 7, sample_size = 1, args = [512, 2048])]
    fn forward(bencher: Bencher<'_, '_>, seq: usize) {
        let dims = dims(seq);
        let (q, k, v) = (
            numbers(dims.query_len()),
            numbers(dims.key_len()),
            numbers(dims.key_len()),
        );
        let (mut out, mut lse) = (numbers(dims.query_len()), numbers(dims.lse_len()));
        bencher
            .counter(operations(seq, 2))
            .bench_local(|| attention::forward(&dims, &q, &k, &v, black_box(&mut out), &mut lse));
    }

    #[divan::bench(sample_count = 7, sample_size = 1, args = [512, 2048])]
    fn backward(bencher: Bencher<'_, '_>, seq: usize) {
        let dims = dims(seq);
        let (q, k, v) = (
            numbers(dims.query_len()),
            numbers(dims.key_len()),
            numbers(dims.key_len()),
        );
        let (mut out, mut lse) = (numbers(dims.query_len()), numbers(dims.lse_len()));
        attention::forward(&dims, &q, &k, &v, &mut out, &mut lse);
        let grad_out = numbers(dims.query_len());
        let (mut grad_q, mut grad_k, mut grad_v) = (q.clone(), k.clone(), v.clone());
        bencher.counter(operations(seq, 5)).bench_local(|| {
            attention::backward(
                &dims,
                &q,
                &k,
                &v,
                &out,
                &lse,
                &grad_out,
                black_box(&mut grad_q),
                &mut grad_k,
                &mut grad_v,
            );
        });
    }
}

/// Output projection and loss, all logits in one chunk: one product forward, and in backward, which has the logits, two for the gradients.
mod cross_entropy_128x4096x32000 {
    use super::*;
    const N: usize = 128;
    const FLOP: usize = 2 * N * HIDDEN * VOCABULARY;

    fn targets() -> (Vec<u32>, Vec<f32>) {
        ((0..N).map(|i| (i * 7919 % VOCABULARY) as u32).collect(), vec![1.0; N])
    }

    #[divan::bench(sample_count = 5, sample_size = 1)]
    fn forward(bencher: Bencher<'_, '_>) {
        let (x, w) = (numbers(N * HIDDEN), numbers(VOCABULARY * HIDDEN));
        let (targets, weights) = targets();
        bencher
            .counter(ItemsCount::new(FLOP))
            .bench_local(|| cross_entropy::forward(black_box(&x), &w, &targets, &weights));
    }

    #[divan::bench(sample_count = 5, sample_size = 1)]
    fn backward(bencher: Bencher<'_, '_>) {
        let (x, w) = (numbers(N * HIDDEN), numbers(VOCABULARY * HIDDEN));
        let (targets, weights) = targets();
        let (mut grad_x, mut grad_w) = (x.clone(), w.clone());
        let bencher = bencher
            .counter(ItemsCount::new(2 * FLOP))
            .with_inputs(|| cross_entropy::forward(&x, &w, &targets, &weights).1);
        bencher.bench_local_values(|kept| {
            cross_entropy::backward(
                &x,
                &w,
                &targets,
                &weights,
                kept,
                1.0 / N as f32,
                black_box(&mut grad_x),
                &mut grad_w,
            );
        });
    }
}

/// The optimizer's step of 16.8 million parameters.
mod adamw_4096x4096 {
    use super::*;

    const LEN: usize = HIDDEN * HIDDEN;

    const HYPER: adamw::Hyper = adamw::Hyper {
        lr: 1e-6,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 1,
        grad_scale: 1.0,
    };

    /// Reads four streams and writes three.
    #[divan::bench(sample_count = 15, sample_size = 1)]
    fn f32(bencher: Bencher<'_, '_>) {
        let (mut param, grad) = (numbers(LEN), numbers(LEN));
        let (mut m, mut v) = (vec![0.0f32; LEN], vec![0.0f32; LEN]);
        bencher
            .counter(bytes(7 * LEN))
            .bench_local(|| adamw::update(black_box(&mut param), &grad, &mut m, &mut v, &HYPER));
    }

    /// Reads two streams and two of bytes, and writes three of them.
    #[divan::bench(sample_count = 15, sample_size = 1)]
    fn eight_bit(bencher: Bencher<'_, '_>) {
        let (mut param, grad) = (numbers(LEN), numbers(LEN));
        let (mut first, mut second) = (vec![0u8; LEN], vec![0u8; LEN]);
        let mut scales = vec![0.0f32; adamw::eight_bit::scales(LEN)];
        bencher.counter(bytes(4 * LEN)).bench_local(|| {
            let moments = adamw::eight_bit::Moments {
                first: &mut first,
                second: &mut second,
                scales: &mut scales,
            };
            adamw::eight_bit::update(black_box(&mut param), &grad, moments, &HYPER);
        });
    }
}

/// The norm of the gradients, for clipping.
#[divan::bench(sample_count = 31, sample_size = 1)]
fn sum_of_squares_4096x4096(bencher: Bencher<'_, '_>) {
    let grad = numbers(HIDDEN * HIDDEN);
    bencher
        .counter(bytes(HIDDEN * HIDDEN))
        .bench_local(|| black_box(adamw::sum_of_squares(&grad)));
}
