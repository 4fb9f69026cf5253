//! Loops that the compiler vectorises: dispatch to the machine's vector width, and sums in a fixed number of lanes.
//!
//! Everything here is `inline(always)`, so that it is compiled for the vector width of the [`dispatch`] it is called in.

use pulp::{Arch, NullaryFnOnce};

/// Numbers summed side by side: four vectors of AVX-512, which hides the latency of an addition.
pub(crate) const LANES: usize = 64;

/// Runs `work`, once, compiled for the widest vectors of this machine. `work` should be an `#[inline(always)]` closure.
///
/// It is called as `FnMut`: as `FnOnce` a closure that only borrows is called through a function made by the compiler, which need not be
/// inlined, and then the whole loop is compiled without wide vectors, each `mul_add` a call into the library of C.
#[inline(always)]
pub fn dispatch<R>(work: impl FnMut() -> R) -> R {
    struct Call<F>(F);
    impl<R, F: FnMut() -> R> NullaryFnOnce for Call<F> {
        type Output = R;
        #[inline(always)]
        fn call(mut self) -> R {
            (self.0)()
        }
    }
    Arch::new().dispatch(Call(work))
}

/// The sum of the lanes in a fixed order: a tree over halves.
#[inline(always)]
fn sum_of_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum over i of `term(a[i], b[i], previous)`, where `term` adds to `previous`.
#[inline(always)]
fn fold2(a: &[f32], b: &[f32], term: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] = term(a[i], b[i], lanes[i]);
        }
    }
    for (i, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[i] = term(a, b, lanes[i]);
    }
    sum_of_lanes(lanes)
}

/// Sum of a[i] b[i].
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    fold2(a, b, |a, b, sum| a.mul_add(b, sum))
}

/// Sum of a[i] b[i] c[i].
#[inline(always)]
pub(crate) fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let (c, c_rest) = c.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for i in 0..LANES {
            lanes[i] = (a[i] * b[i]).mul_add(c[i], lanes[i]);
        }
    }
    for (i, ((&a, &b), &c)) in a_rest.iter().zip(b_rest).zip(c_rest).enumerate() {
        lanes[i] = (a * b).mul_add(c, lanes[i]);
    }
    sum_of_lanes(lanes)
}

/// The largest number, or NaN if one is NaN; minus infinity for none.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    for (i, &x) in rest.iter().enumerate() {
        lanes[i] = larger(lanes[i], x);
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, larger)
}

/// The larger of two numbers, or NaN if either is NaN (`f32::max` would hide it).
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() {
        a
    } else {
        b
    }
}

/// Sum of `f(x[i])`: f32 lanes within blocks of 1024, f64 over the blocks, so that a vocabulary of 10^5 loses nothing.
#[inline(always)]
pub(crate) fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut total = 0.0;
    for block in x.chunks(1024) {
        total += f64::from(fold2(block, block, |x, _, sum| sum + f(x)));
    }
    total
}

/// Sum of `f(a[i], b[i])`, summed as by [`sum_of`].
#[inline(always)]
pub(crate) fn sum_of2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    let mut total = 0.0;
    for (a, b) in a.chunks(1024).zip(b.chunks(1024)) {
        total += f64::from(fold2(a, b, |a, b, sum| sum + f(a, b)));
    }
    total
}
