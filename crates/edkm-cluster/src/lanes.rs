//! Eight f64 numbers at a time: in memory ([`Lanes`]), and in the vector registers of whatever machine this is ([`Wide`]).

use std::ops::{Add, AddAssign, Mul, Sub};

use pulp::{Arch, Simd, WithSimd};

/// Numbers handled at once.
pub(crate) const LANES: usize = 8;

/// Eight numbers in memory, aligned as the widest vector register.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(64))]
pub(crate) struct Lanes(pub(crate) [f64; LANES]);

impl Lanes {
    pub(crate) const ZERO: Lanes = Lanes([0.0; LANES]);

    pub(crate) const fn splat(x: f64) -> Self {
        Lanes([x; LANES])
    }

    #[inline(always)]
    pub(crate) fn wide<S: Simd>(self, simd: S) -> Wide<S> {
        Wide { simd, lanes: self }
    }

    /// Adds to all lanes.
    #[inline(always)]
    pub(crate) fn add<S: Simd>(&mut self, simd: S, other: Wide<S>) {
        *self = (self.wide(simd) + other).lanes;
    }

    /// Adds a x b to all lanes.
    #[inline(always)]
    pub(crate) fn add_product<S: Simd>(&mut self, simd: S, a: Wide<S>, b: Wide<S>) {
        *self = a.mul_add(b, self.wide(simd)).lanes;
    }

    /// The sum of all lanes, in a fixed order.
    pub(crate) fn sum(self) -> f64 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    /// The largest lane.
    #[inline(always)]
    pub(crate) fn largest(self) -> f64 {
        self.0.iter().fold(f64::NEG_INFINITY, |m, &x| if x > m { x } else { m })
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

/// Eight numbers to calculate with: one register with AVX-512, two with AVX2, four with NEON.
///
/// Left to itself the compiler does not always find the vector instructions for plain loops over eight numbers; so every operation here is
/// made of them.
#[derive(Clone, Copy)]
pub(crate) struct Wide<S: Simd> {
    simd: S,
    lanes: Lanes,
}

impl<S: Simd> Wide<S> {
    #[inline(always)]
    pub(crate) fn splat(simd: S, x: f64) -> Self {
        Lanes::ZERO.wide(simd).map(|simd, _| simd.splat_f64s(x))
    }

    #[inline(always)]
    pub(crate) fn zero(simd: S) -> Self {
        Self::splat(simd, 0.0)
    }

    #[inline(always)]
    pub(crate) fn lanes(self) -> Lanes {
        self.lanes
    }

    #[inline(always)]
    fn map(self, f: impl Fn(S, S::f64s) -> S::f64s) -> Self {
        let mut out = self;
        for x in S::as_mut_simd_f64s(&mut out.lanes.0).0 {
            *x = f(self.simd, *x);
        }
        out
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(S, S::f64s, S::f64s) -> S::f64s) -> Self {
        let mut out = self;
        for (x, y) in S::as_mut_simd_f64s(&mut out.lanes.0)
            .0
            .iter_mut()
            .zip(S::as_simd_f64s(&other.lanes.0).0)
        {
            *x = f(self.simd, *x, *y);
        }
        out
    }

    #[inline(always)]
    pub(crate) fn min(self, other: Self) -> Self {
        self.zip(other, |simd, a, b| simd.min_f64s(a, b))
    }

    #[inline(always)]
    pub(crate) fn max(self, other: Self) -> Self {
        self.zip(other, |simd, a, b| simd.max_f64s(a, b))
    }

    /// 1 / x.
    #[inline(always)]
    pub(crate) fn recip(self) -> Self {
        self.map(|simd, a| simd.div_f64s(simd.splat_f64s(1.0), a))
    }

    /// self x b + c, with one rounding where that is one instruction.
    #[inline(always)]
    pub(crate) fn mul_add(self, b: Self, c: Self) -> Self {
        let mut out = c;
        let factors = S::as_simd_f64s(&self.lanes.0)
            .0
            .iter()
            .zip(S::as_simd_f64s(&b.lanes.0).0);
        for (out, (a, b)) in S::as_mut_simd_f64s(&mut out.lanes.0).0.iter_mut().zip(factors) {
            *out = self.simd.mul_add_e_f64s(*a, *b, *out);
        }
        out
    }

    /// Whether any lane is below that of `other`.
    #[inline(always)]
    pub(crate) fn any_below(self, other: Self) -> bool {
        let pairs = S::as_simd_f64s(&self.lanes.0)
            .0
            .iter()
            .zip(S::as_simd_f64s(&other.lanes.0).0);
        let below =
            |(a, b): (&S::f64s, &S::f64s)| self.simd.first_true_m64s(self.simd.less_than_f64s(*a, *b)) < S::F64_LANES;
        pairs.map(below).fold(false, |any, below| any | below)
    }

    /// In each lane `yes` where `self` is below `other`, else `no`.
    #[inline(always)]
    pub(crate) fn if_below(self, other: Self, yes: Self, no: Self) -> Self {
        let mut out = no;
        let pairs = S::as_simd_f64s(&self.lanes.0)
            .0
            .iter()
            .zip(S::as_simd_f64s(&other.lanes.0).0);
        let choices = S::as_simd_f64s(&yes.lanes.0)
            .0
            .iter()
            .zip(S::as_mut_simd_f64s(&mut out.lanes.0).0);
        for ((a, b), (yes, out)) in pairs.zip(choices) {
            *out = self.simd.select_f64s(self.simd.less_than_f64s(*a, *b), *yes, *out);
        }
        out
    }

    /// 2^x for x at most 0, to a relative error below 1e-15; 2^-1000 for anything smaller.
    #[inline(always)]
    pub(crate) fn exp2(self) -> Self {
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
        /// 1.5 x 2^52: adding it rounds to an integer.
        const ROUND: f64 = 6755399441055744.0;
        /// 1.5 x 2^20: adding it puts an integer into the upper half of the bits, and nothing into the lower.
        const UPPER: f64 = 1572864.0;
        let simd = self.simd;
        let splat = |x| Self::splat(simd, x);
        let x = self.max(splat(-1000.0));
        let n = x + splat(ROUND) - splat(ROUND);
        let r = x - n;
        let mut p = splat(COEFFICIENTS[0]);
        for &c in &COEFFICIENTS[1..] {
            p = p.mul_add(r, splat(c));
        }
        p = p.mul_add(r, splat(1.0));
        // Adds the integer to the exponent: 20 bits up in the upper half; what is above it falls off the top.
        let mut halves: [u32; 2 * LANES] = pulp::cast((n + splat(UPPER)).lanes.0);
        for half in S::as_mut_simd_u32s(&mut halves).0 {
            *half = simd.wrapping_dyn_shl_u32s(*half, simd.splat_u32s(20));
        }
        let n: [u64; LANES] = pulp::cast(halves);
        let mut bits: [u64; LANES] = pulp::cast(p.lanes.0);
        for (bits, n) in S::as_mut_simd_u64s(&mut bits).0.iter_mut().zip(S::as_simd_u64s(&n).0) {
            *bits = simd.add_u64s(*bits, *n);
        }
        Lanes(pulp::cast(bits)).wide(simd)
    }
}

impl<S: Simd> Add for Wide<S> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |simd, a, b| simd.add_f64s(a, b))
    }
}

impl<S: Simd> AddAssign for Wide<S> {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl<S: Simd> Sub for Wide<S> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |simd, a, b| simd.sub_f64s(a, b))
    }
}

impl<S: Simd> Mul for Wide<S> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |simd, a, b| simd.mul_f64s(a, b))
    }
}

/// Work that is compiled once for each instruction set.
pub(crate) trait Kernel {
    type Output;

    /// Must be `#[inline(always)]`, as everything that it calls in its loops.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs a kernel compiled for the widest vectors of the machine.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    struct Call<K>(K);
    impl<K: Kernel> WithSimd for Call<K> {
        type Output = K::Output;
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> K::Output {
            self.0.run(simd)
        }
    }
    Arch::new().dispatch(Call(kernel))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp2(Lanes);
    impl Kernel for Exp2 {
        type Output = Lanes;
        fn run<S: Simd>(self, simd: S) -> Lanes {
            self.0.wide(simd).exp2().lanes()
        }
    }

    /// On this machine's vectors and on none.
    fn exp2(x: Lanes) -> [Lanes; 2] {
        [dispatch(Exp2(x)), Exp2(x).run(pulp::Scalar::new())]
    }

    #[test]
    fn exp2_is_accurate() {
        for i in 0..20_000 {
            let x = Lanes([0.0, 0.1, 0.25, 0.5, 0.7, 0.9, 0.99, 0.3].map(|f: f64| -(f + i as f64) * 0.05));
            for got in exp2(x) {
                for (x, got) in x.0.iter().zip(got.0) {
                    // Interpolation 6e-16 and a handful of roundings of 1.1e-16.
                    assert!((got / x.exp2() - 1.0).abs() < 2e-15, "2^{x} is {}, not {got}", x.exp2());
                }
            }
        }
        assert_eq!(exp2(Lanes::ZERO), [Lanes::splat(1.0); 2]);
        assert_eq!(exp2(Lanes::splat(-1e9)), [Lanes::splat((-1000f64).exp2()); 2]);
    }

    #[test]
    fn operations_are_lane_by_lane() {
        struct Operations;
        impl Kernel for Operations {
            type Output = ();
            fn run<S: Simd>(self, simd: S) {
                let numbers = Lanes([1.0, -2.0, 3.0, 4.0, -5.0, 6.0, 7.0, 8.0]);
                let (x, two) = (numbers.wide(simd), Wide::splat(simd, 2.0));
                let each = |f: &dyn Fn(f64) -> f64| Lanes(numbers.0.map(f));
                assert_eq!((x + two).lanes(), each(&|x| x + 2.0));
                assert_eq!((x - two).lanes(), each(&|x| x - 2.0));
                assert_eq!((x * two).lanes(), each(&|x| x * 2.0));
                assert_eq!(x.mul_add(two, x).lanes(), each(&|x| x * 2.0 + x));
                assert_eq!(x.min(two).lanes(), each(&|x| x.min(2.0)));
                assert_eq!(x.max(two).lanes(), each(&|x| x.max(2.0)));
                assert_eq!(x.recip().lanes(), each(&|x| 1.0 / x));
                assert_eq!(x.if_below(two, two, x).lanes(), each(&|x| x.max(2.0)));
                assert!(x.any_below(Wide::splat(simd, -4.9)) && !x.any_below(Wide::splat(simd, -5.0)));
            }
        }
        dispatch(Operations);
        Operations.run(pulp::Scalar::new());
    }

    #[test]
    fn packing_pads_the_last_lanes() {
        let packed = Lanes::pack((0..10).map(f64::from), -1.0);
        let numbers: Vec<f64> = Lanes::unpack(&packed).collect();
        assert_eq!(numbers[..10], (0..10).map(f64::from).collect::<Vec<_>>());
        assert_eq!(numbers[10..], [-1.0; 6]);
        assert_eq!(Lanes([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).sum(), 36.0);
        assert_eq!(Lanes([1.0, 2.0, 9.0, 4.0, 5.0, 6.0, 7.0, 8.0]).largest(), 9.0);
    }
}
