//! Eight f64 numbers at a time, in plain Rust that the compiler turns into vector instructions.
//!
//! Everything here is inlined into a function that is compiled for the machine's instruction set (see [`Arithmetic`]).

use std::ops::{Add, AddAssign, Mul, Sub};

use pulp::{Arch, Simd, WithSimd};

/// Numbers handled at once.
pub(crate) const LANES: usize = 8;

/// Eight numbers, aligned as the widest vector register.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(64))]
pub(crate) struct Lanes(pub(crate) [f64; LANES]);

impl Lanes {
    pub(crate) const ZERO: Lanes = Lanes([0.0; LANES]);

    #[inline(always)]
    pub(crate) fn splat(x: f64) -> Self {
        Lanes([x; LANES])
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        let mut out = self;
        for i in 0..LANES {
            out.0[i] = f(self.0[i], other.0[i]);
        }
        out
    }

    #[inline(always)]
    pub(crate) fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    pub(crate) fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    /// Whether any lane is below that of `other`.
    #[inline(always)]
    pub(crate) fn any_below(self, other: Self) -> bool {
        let mut any = false;
        for i in 0..LANES {
            any |= self.0[i] < other.0[i];
        }
        any
    }

    /// 1 / x.
    #[inline(always)]
    pub(crate) fn recip(self) -> Self {
        Lanes::splat(1.0).zip(self, |a, b| a / b)
    }

    /// The sum of all lanes, in a fixed order.
    #[inline(always)]
    pub(crate) fn sum(self) -> f64 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    /// Packs numbers into lanes and fills the last with `padding`.
    pub(crate) fn pack(numbers: impl ExactSizeIterator<Item = f64>, padding: f64) -> Vec<Lanes> {
        let mut packed = vec![Lanes::splat(padding); numbers.len().div_ceil(LANES)];
        for (i, number) in numbers.enumerate() {
            packed[i / LANES].0[i % LANES] = number;
        }
        packed
    }

    /// The numbers of packed lanes, padding included.
    pub(crate) fn unpack(packed: &[Lanes]) -> impl Iterator<Item = f64> + '_ {
        packed.iter().flat_map(|lanes| lanes.0)
    }
}

impl Add for Lanes {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
}

impl AddAssign for Lanes {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Lanes {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
}

impl Mul for Lanes {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
}

/// How a x b + c is computed: with one rounding where the machine has the instruction, with two where it would be a library call.
pub(crate) trait Arithmetic {
    fn mul_add_one(a: f64, b: f64, c: f64) -> f64;

    #[inline(always)]
    fn mul_add(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        let mut out = c;
        for i in 0..LANES {
            out.0[i] = Self::mul_add_one(a.0[i], b.0[i], c.0[i]);
        }
        out
    }
}

/// One rounding.
pub(crate) struct Fused;

impl Arithmetic for Fused {
    #[inline(always)]
    fn mul_add_one(a: f64, b: f64, c: f64) -> f64 {
        a.mul_add(b, c)
    }
}

/// Two roundings.
pub(crate) struct Separate;

impl Arithmetic for Separate {
    #[inline(always)]
    fn mul_add_one(a: f64, b: f64, c: f64) -> f64 {
        a * b + c
    }
}

/// Work that is compiled once for each instruction set.
pub(crate) trait Kernel {
    type Output;

    /// Must be `#[inline(always)]`, as everything that it calls in its loops.
    fn run<A: Arithmetic>(self) -> Self::Output;
}

/// Runs a kernel compiled for the widest vectors of the machine.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    struct Call<K>(K);
    impl<K: Kernel> WithSimd for Call<K> {
        type Output = K::Output;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> K::Output {
            // All vector instruction sets that `pulp` chooses (AVX2 with FMA, AVX-512, NEON) fuse; its scalar fallback does not.
            if S::F64_LANES > 1 {
                self.0.run::<Fused>()
            } else {
                self.0.run::<Separate>()
            }
        }
    }
    Arch::new().dispatch(Call(kernel))
}

/// 2^x for x at most 0, to a relative error below 1e-15; 2^-1000 for anything smaller.
#[inline(always)]
pub(crate) fn exp2<A: Arithmetic>(x: Lanes) -> Lanes {
    /// 1.5 x 2^52: adding it leaves the nearest integer in the low bits.
    const ROUND: f64 = 6755399441055744.0;
    /// (2^r - 1) / r on [-1/2, 1/2], interpolated at Chebyshev nodes.
    const COEFFICIENTS: [f64; 10] = [
        7.070977866508138e-9,
        1.0205905413765595e-7,
        1.3215451633221434e-6,
        1.5252672924850737e-5,
        1.5403530424776529e-4,
        1.3333558200794592e-3,
        9.618129107618665e-3,
        5.550410866465167e-2,
        2.4022650695910075e-1,
        6.931471805599462e-1,
    ];
    let x = x.max(Lanes::splat(-1000.0));
    let shifted = x + Lanes::splat(ROUND);
    let r = x - (shifted - Lanes::splat(ROUND));
    let mut p = Lanes::splat(COEFFICIENTS[0]);
    for &c in &COEFFICIENTS[1..] {
        p = A::mul_add(p, r, Lanes::splat(c));
    }
    p = A::mul_add(p, r, Lanes::splat(1.0));
    for i in 0..LANES {
        // Adds the integer to the exponent; the bits above it fall off the top.
        p.0[i] = f64::from_bits(p.0[i].to_bits().wrapping_add(shifted.0[i].to_bits() << 52));
    }
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp2(Lanes);
    impl Kernel for Exp2 {
        type Output = (Lanes, Lanes);
        fn run<A: Arithmetic>(self) -> (Lanes, Lanes) {
            (exp2::<A>(self.0), exp2::<Separate>(self.0))
        }
    }

    #[test]
    fn exp2_is_accurate() {
        for i in 0..20_000 {
            let x = Lanes([0.0, 0.1, 0.25, 0.5, 0.7, 0.9, 0.99, 0.3].map(|f: f64| -(f + i as f64) * 0.05));
            let (fused, separate) = dispatch(Exp2(x));
            for lane in 0..LANES {
                let want = x.0[lane].exp2();
                for got in [fused.0[lane], separate.0[lane]] {
                    // Interpolation 6e-16 and a handful of roundings of 1.1e-16.
                    assert!((got / want - 1.0).abs() < 2e-15, "2^{} is {want}, not {got}", x.0[lane]);
                }
            }
        }
        assert_eq!(dispatch(Exp2(Lanes::ZERO)).0, Lanes::splat(1.0));
        assert_eq!(dispatch(Exp2(Lanes::splat(-1e9))).0, Lanes::splat((-1000f64).exp2()));
    }

    #[test]
    fn packing_pads_the_last_lanes() {
        let packed = Lanes::pack((0..10).map(f64::from), -1.0);
        let numbers: Vec<f64> = Lanes::unpack(&packed).collect();
        assert_eq!(numbers[..10], (0..10).map(f64::from).collect::<Vec<_>>());
        assert_eq!(numbers[10..], [-1.0; 6]);
        assert_eq!(Lanes([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).sum(), 36.0);
    }
}
