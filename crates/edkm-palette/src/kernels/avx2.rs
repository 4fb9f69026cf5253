//! Sixteen lanes in two 256-bit registers, for processors without AVX-512.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::lanes::{Job, Lanes};
use crate::layout::WordLanes;
use crate::tables::{Column, FloatLanes, Lookup, TilePalettes};

/// Proof that the processor has AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The token, where the processor has the instructions.
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
    }

    /// Eight of the sixteen lanes of a lookup in a whole table.
    ///
    /// Plain `#[inline(always)]` functions, no closures: those are not inlined into the function that has the instructions.
    #[inline(always)]
    fn lookup_half<const BITS: usize>(self, table: &[f32], index: __m256i) -> __m256 {
        match BITS {
            0..=3 => self.lookup_eight(table, 0, index),
            4 => self.choose::<28>(
                index,
                self.lookup_eight(table, 0, index),
                self.lookup_eight(table, 8, index),
            ),
            5 => {
                let low = self.choose::<28>(
                    index,
                    self.lookup_eight(table, 0, index),
                    self.lookup_eight(table, 8, index),
                );
                let high = self.choose::<28>(
                    index,
                    self.lookup_eight(table, 16, index),
                    self.lookup_eight(table, 24, index),
                );
                self.choose::<27>(index, low, high)
            }
            _ => {
                assert!(table.len() >= 1 << BITS);
                // SAFETY: AVX2 by the token; each address is an index below 2^BITS, inside the table by the assertion.
                unsafe {
                    let index = _mm256_and_si256(index, _mm256_set1_epi32((1 << BITS) - 1));
                    _mm256_i32gather_ps::<4>(table.as_ptr(), index)
                }
            }
        }
    }

    /// Lookup in eight entries of the table. The instruction ignores the bits above the 3 that it looks up with.
    #[inline(always)]
    fn lookup_eight(self, table: &[f32], first: usize, index: __m256i) -> __m256 {
        let entries: &[f32] = &table[first..first + 8];
        // SAFETY: AVX2 by the token; the slice covers the 32 bytes that are read.
        unsafe { _mm256_permutevar8x32_ps(_mm256_loadu_ps(entries.as_ptr()), index) }
    }

    /// `high` where bit `31 - BY` of the index is set. A blend chooses by the sign: the bit is shifted there.
    #[inline(always)]
    fn choose<const BY: i32>(self, index: __m256i, low: __m256, high: __m256) -> __m256 {
        // SAFETY: AVX2 by the token.
        unsafe { _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<BY>(index))) }
    }

    /// For the eight lanes from lane `first` on.
    #[inline(always)]
    fn choose_from_half(self, lane: usize, first: i32, low: __m256, high: __m256) -> __m256 {
        // SAFETY: AVX2 by the token.
        unsafe {
            let lanes = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
            let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(lane as i32), lanes);
            _mm256_blendv_ps(high, low, _mm256_castsi256_ps(below))
        }
    }

    #[inline(always)]
    fn shift_half(self, value: __m256i, by: usize) -> __m256i {
        // SAFETY: AVX2 by the token. A variable shift by a constant becomes the immediate form.
        unsafe { _mm256_srlv_epi32(value, _mm256_set1_epi32(by as i32)) }
    }

    #[inline(always)]
    fn shift_half_pair(self, low: __m256i, high: __m256i, by: usize) -> __m256i {
        // SAFETY: AVX2 by the token.
        unsafe {
            let high = _mm256_sllv_epi32(high, _mm256_set1_epi32(32 - by as i32));
            _mm256_or_si256(self.shift_half(low, by), high)
        }
    }
}

impl Lanes for Avx2 {
    type Floats = [__m256; 2];
    type Words = [__m256i; 2];
    /// The palette of each half.
    type Shares = [usize; 2];

    const INPUTS: usize = 4;
    const TILES: usize = 2;
    const IN_REGISTERS: bool = true;
    const SINGLE_BITS: usize = 5;

    fn run<J: Job, const BITS: usize>(self, job: J) {
        #[target_feature(enable = "avx2,fma")]
        fn enabled<J: Job, const BITS: usize>(lanes: Avx2, job: J) {
            job.run::<Avx2, BITS>(lanes);
        }
        // SAFETY: the token proves that the processor has the features which `enabled` is compiled for.
        unsafe { enabled::<J, BITS>(self, job) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        // SAFETY: the token proves that the processor has AVX2 and FMA. So in every method below.
        [unsafe { _mm256_set1_ps(value) }; 2]
    }

    #[inline(always)]
    fn load(self, lanes: &FloatLanes) -> [__m256; 2] {
        // SAFETY: AVX by the token; the reference covers the 64 bytes that are read, at any alignment.
        unsafe { [_mm256_loadu_ps(lanes.as_ptr()), _mm256_loadu_ps(lanes[8..].as_ptr())] }
    }

    #[inline(always)]
    fn store(self, value: [__m256; 2], lanes: &mut FloatLanes) {
        // SAFETY: AVX by the token; the reference covers the 64 bytes that are written, at any alignment.
        unsafe {
            _mm256_storeu_ps(lanes.as_mut_ptr(), value[0]);
            _mm256_storeu_ps(lanes[8..].as_mut_ptr(), value[1]);
        }
    }

    #[inline(always)]
    fn load_words(self, lanes: &WordLanes) -> [__m256i; 2] {
        // SAFETY: AVX by the token; the reference covers the 64 bytes that are read, at any alignment.
        unsafe {
            [
                _mm256_loadu_si256(lanes.as_ptr().cast()),
                _mm256_loadu_si256(lanes[8..].as_ptr().cast()),
            ]
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const WordLanes) {
        // SAFETY: a prefetch reads nothing that the program sees, and does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: AVX by the token.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn fma(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: FMA by the token.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn shift(self, value: [__m256i; 2], by: usize) -> [__m256i; 2] {
        [self.shift_half(value[0], by), self.shift_half(value[1], by)]
    }

    #[inline(always)]
    fn shift_pair(self, low: [__m256i; 2], high: [__m256i; 2], by: usize) -> [__m256i; 2] {
        [
            self.shift_half_pair(low[0], high[0], by),
            self.shift_half_pair(low[1], high[1], by),
        ]
    }

    #[inline(always)]
    fn lookup<const BITS: usize>(self, lookup: Lookup<'_>, table: usize, index: [__m256i; 2]) -> [__m256; 2] {
        let table = lookup.floats_of::<BITS>(table).as_flattened();
        [
            self.lookup_half::<BITS>(table, index[0]),
            self.lookup_half::<BITS>(table, index[1]),
        ]
    }

    #[inline(always)]
    fn shares(self, palettes: &TilePalettes<'_>) -> Option<[usize; 2]> {
        palettes.of_runs()
    }

    #[inline(always)]
    fn lookup_shared<const BITS: usize>(
        self,
        lookup: Lookup<'_>,
        shares: [usize; 2],
        column: Column,
        index: [__m256i; 2],
    ) -> [__m256; 2] {
        let table = lookup.floats_of::<BITS>(column.table(shares[0])).as_flattened();
        let second = lookup.floats_of::<BITS>(column.table(shares[1])).as_flattened();
        [
            self.lookup_half::<BITS>(table, index[0]),
            self.lookup_half::<BITS>(second, index[1]),
        ]
    }

    #[inline(always)]
    fn choose_from(self, lane: usize, low: [__m256; 2], high: [__m256; 2]) -> [__m256; 2] {
        [
            self.choose_from_half(lane, 0, low[0], high[0]),
            self.choose_from_half(lane, 8, low[1], high[1]),
        ]
    }
}
