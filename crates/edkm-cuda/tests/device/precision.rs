//! Products with rounded operands, within the stated errors.

use edkm_cuda::product::{self, Accumulate, Precision, Product};
use edkm_cuda::{Argument, Runtime};

use crate::device::{device, Device};
use edkm_testkit::random;

/// The device, multiplying in another way.
struct With<'a>(&'a Device, Precision);

#[allow(unsafe_code)]
impl Runtime for With<'_> {
    type Error = <Device as Runtime>::Error;
    type Memory = <Device as Runtime>::Memory;

    fn allocate(&self, bytes: usize) -> Result<Self::Memory, Self::Error> {
        self.0.allocate(bytes)
    }

    fn allocate_unset(&self, bytes: usize) -> Result<Self::Memory, Self::Error> {
        self.0.allocate_unset(bytes)
    }

    fn address(memory: &Self::Memory) -> u64 {
        Device::address(memory)
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Self::Error> {
        // SAFETY: the caller's contract.
        unsafe { self.0.write(to, bytes) }
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), Self::Error> {
        // SAFETY: the caller's contract.
        unsafe { self.0.read(from, bytes) }
    }

    unsafe fn launch(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<(), Self::Error> {
        // SAFETY: the caller's contract.
        unsafe { self.0.launch(kernel, blocks, arguments) }
    }

    fn precision(&self) -> Precision {
        self.1
    }

    unsafe fn multiply(&self, product: &Product) -> Result<(), Self::Error> {
        // SAFETY: the caller's contract.
        unsafe { self.0.multiply(product) }
    }
}

/// a b in f64, and the sum of the magnitudes of the terms, `[m, n]`.
fn exact([m, n, k]: [usize; 3], a: &[f32], b: &[f32]) -> Vec<(f64, f64)> {
    let terms = |i: usize| (0..k).map(move |j| f64::from(a[i / n * k + j]) * f64::from(b[j * n + i % n]));
    (0..m * n)
        .map(|i| (terms(i).sum(), terms(i).map(f64::abs).sum()))
        .collect()
}

/// With operands of very different sizes: f16 alone would lose them.
#[test]
fn rounded_products_are_within_their_stated_error() {
    let Some(device) = device() else { return };
    let shape @ [m, n, k] = [7, 9, 300];
    for [size_a, size_b] in [[1.0, 1.0], [1e-9, 1e4], [1e12, 1e-20], [1e-30, 1e30]] {
        let a: Vec<f32> = random(1, m * k).iter().map(|x| x * size_a).collect();
        let b: Vec<f32> = random(2, k * n).iter().map(|x| x * size_b).collect();
        let c: Vec<f32> = random(3, m * n).iter().map(|x| x * size_a * size_b).collect();
        let (da, db) = (device.array(&a), device.array(&b));
        for (precision, bits) in [(Precision::F32, 22), (Precision::Tf32, 9), (Precision::F16, 10)] {
            for accumulate in [Accumulate::Overwrite, Accumulate::Add] {
                let mut got = device.array(&c);
                let with = With(&device, precision);
                let Ok(()) = product::nn(&with, shape, da.as_slice(), db.as_slice(), got.as_mut(), accumulate);
                let Ok(got) = got.to_host(&device);
                let mut largest = 0f64;
                for ((&got, (sum, magnitudes)), &before) in got.iter().zip(exact(shape, &a, &b)).zip(&c) {
                    let want = match accumulate {
                        Accumulate::Overwrite => sum,
                        Accumulate::Add => sum + f64::from(before),
                    };
                    // of both operands, and the rounding of the result
                    let error = (f64::from(got) - want).abs() / magnitudes;
                    assert!(
                        error <= 1.01 * f64::from(-bits).exp2(),
                        "{precision:?}, {size_a}: {error}"
                    );
                    largest = largest.max(error);
                }
                let rounds = precision != Precision::F32;
                assert_eq!(largest > f64::from(-16).exp2(), rounds, "{precision:?}: {largest}");
            }
        }
    }
}

#[test]
fn what_is_zero_or_not_finite_stays_so_in_f16() {
    let Some(device) = device() else { return };
    let product = |a: [f32; 2], b: [f32; 2]| {
        let (a, b, mut c) = (device.array(&a), device.array(&b), device.array(&[7.0f32]));
        let with = With(&device, Precision::F16);
        let (a, b) = (a.as_slice(), b.as_slice());
        let Ok(()) = product::nt(&with, [1, 1, 2], a, b, c.as_mut(), Accumulate::Overwrite);
        let Ok(c) = c.to_host(&device);
        c[0]
    };
    assert_eq!(product([0.0, 0.0], [1.0, 2.0]), 0.0);
    assert_eq!(product([1.0, 1e-30], [2.0, 1.0]), 2.0);
    assert_eq!(product([f32::INFINITY, 1.0], [1.0, 1.0]), f32::INFINITY);
    assert!(product([f32::NAN, 1.0], [1.0, 1.0]).is_nan());
    // the range of f32 on either side, and what is lost: largest numbers whose product is below 2^-98
    let (least, thousand) = (f32::MIN_POSITIVE, 1000.0);
    assert_eq!(
        product([least * thousand, 0.0], [1e30, 0.0]),
        from_f16(least * thousand) * from_f16(1e30)
    );
    assert_eq!(product([1e38, 0.0], [1e-38, 0.0]), from_f16(1e38) * from_f16(1e-38));
    assert_eq!(product([1e-20, 0.0], [1e-20, 0.0]), 0.0);
}

/// With 10 bits of fraction.
fn from_f16(x: f32) -> f32 {
    let power = x.abs().log2().floor() - 10.0;
    (x / power.exp2()).round_ties_even() * power.exp2()
}
