//! `y = W x` for `W` of 4096 x 11008: packed palettes of 3 and 4 bits, candle's `Q3K` and `Q4_0`, and f32 in candle.
//!
//! `cargo run --release` in this folder. The contenders take turns, so that a busy machine holds up all alike; printed are the
//! fastest and the median time of each. As in a model, each product uses another matrix, together larger than the caches.

use std::hint::black_box;
use std::time::{Duration, Instant};

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};
use edkm_palette::{PaletteSpec, PalettizedMatrix};

const ROWS: usize = 4096;
const COLS: usize = 11008;
const ROUNDS: usize = 101;
/// More than the caches hold.
const BYTES: usize = 160 << 20;

type Contender = (String, usize, Box<dyn FnMut(usize)>);

fn hash(i: usize) -> u32 {
    ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

fn packed(bits: u8, x: &[f32]) -> Contender {
    let spec = PaletteSpec::new(bits);
    let palette: Vec<f32> = (0..spec.palette_len()).map(|i| hash(i) as f32 / u32::MAX as f32 - 0.5).collect();
    let matrix = |seed: usize| {
        let indices: Vec<u8> =
            (0..ROWS * COLS).map(|i| (hash(i + seed) % spec.clusters() as u32) as u8).collect();
        PalettizedMatrix::pack(ROWS, COLS, spec, &palette, &indices, None).expect("arguments that fit")
    };
    let first = matrix(0);
    let bytes = first.size_bytes();
    let matrices: Vec<_> = (0..BYTES.div_ceil(bytes)).map(matrix).collect();
    let (x, mut y) = (x.to_vec(), vec![0.0; ROWS]);
    let run = move |round: usize| {
        matrices[round % matrices.len()].matvec(black_box(&x), &mut y).expect("sizes match");
        black_box(&y);
    };
    (format!("packed, {bits} bits"), bytes, Box::new(run))
}

fn quantized(dtype: GgmlDType, weights: &Tensor, x: &Tensor) -> candle_core::Result<Contender> {
    let quantize = || QTensor::quantize(weights, dtype);
    let bytes = quantize()?.storage_size_in_bytes();
    let matrices: Vec<_> =
        (0..BYTES.div_ceil(bytes)).map(|_| QMatMul::from_qtensor(quantize()?)).collect::<candle_core::Result<_>>()?;
    let x = x.clone();
    let run = move |round: usize| {
        black_box(matrices[round % matrices.len()].forward(black_box(&x)).expect("shapes match"));
    };
    Ok((format!("candle {dtype:?}"), bytes, Box::new(run)))
}

fn main() -> candle_core::Result<()> {
    let x: Vec<f32> = (0..COLS).map(|i| hash(i) as f32 / u32::MAX as f32 - 0.5).collect();
    let weights = Tensor::randn(0f32, 0.02, (ROWS, COLS), &Device::Cpu)?;
    let x_tensor = Tensor::from_slice(&x, (1, COLS), &Device::Cpu)?;
    let floats = {
        let (weights, x) = (weights.t()?, x_tensor.clone());
        let run = move |_| {
            black_box(black_box(&x).matmul(&weights).expect("shapes match"));
        };
        ("candle f32".to_owned(), ROWS * COLS * 4, Box::new(run) as Box<dyn FnMut(usize)>)
    };
    let mut contenders = vec![
        packed(3, &x),
        packed(4, &x),
        quantized(GgmlDType::Q3K, &weights, &x_tensor)?,
        quantized(GgmlDType::Q4_0, &weights, &x_tensor)?,
        floats,
    ];

    let mut times = vec![Vec::with_capacity(ROUNDS); contenders.len()];
    for round in 0..ROUNDS {
        for ((_, _, run), times) in contenders.iter_mut().zip(&mut times) {
            let start = Instant::now();
            run(round);
            times.push(start.elapsed());
        }
    }
    println!("{:<16} {:>10} {:>12} {:>12} {:>10}", "", "MB", "fastest ms", "median ms", "GB/s");
    for ((name, bytes, _), times) in contenders.iter().zip(&mut times) {
        times.sort();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (fastest, median) = (times[0], times[ROUNDS / 2]);
        let rate = *bytes as f64 / fastest.as_secs_f64() / 1e9;
        println!("{name:<16} {:>10.1} {:>12.3} {:>12.3} {rate:>10.1}", *bytes as f64 / 1e6, ms(fastest), ms(median));
    }
    Ok(())
}
