//! What the tests of the kernels share.

use rayon::ThreadPoolBuilder;

/// `n` numbers in -1..1 that look random and are the same in every run.
pub(crate) fn random(seed: u64, n: usize) -> Vec<f32> {
    // splitmix64 (Steele, Lea and Flood 2014)
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// Widened to the precision of the references.
pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Asserts |got - expected| <= tolerance x (1 + |expected|) for each number; NaN fails.
#[track_caller]
pub(crate) fn assert_close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let off = (f64::from(got) - expected).abs();
        let within = off <= tolerance * (1.0 + expected.abs());
        assert!(
            within,
            "{what}: number {i} is {got}, expected {expected} (off by {off:e}, tolerance {tolerance:e})"
        );
    }
}

/// Asserts that `compute` gives the same bits in pools of 1, 2, 3 and 7 threads and outside of any.
#[track_caller]
pub(crate) fn assert_same_for_any_pool(what: &str, compute: impl Fn() -> Vec<f32> + Sync) {
    let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let outside = bits(compute());
    for threads in [1, 2, 3, 7] {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a small pool");
        let inside = bits(pool.install(&compute));
        let differing = inside.iter().zip(&outside).position(|(a, b)| a != b);
        assert_eq!(differing, None, "{what}: first difference with {threads} threads");
    }
}

/// The gradient of `loss` at `x` by central differences, in f64.
pub(crate) fn central_differences(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let here = x[i];
            x[i] = here + STEP;
            let above = loss(&x);
            x[i] = here - STEP;
            let below = loss(&x);
            x[i] = here;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}
