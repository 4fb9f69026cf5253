//! Sixteen lanes in one 512-bit register: a palette of 16 is one register, and a lookup in it one instruction.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::lanes::{Job, Lanes};
use crate::layout::{WordLanes, TILE_ROWS};
use crate::tables::{BytePlane, Column, FloatLanes, Lookup, TilePalettes, PLANE_BITS};

/// Proof that the processor has AVX-512 F, BW and VBMI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The token, where the processor has the instructions.
    pub(crate) fn detect() -> Option<Self> {
        let detected = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi");
        detected.then_some(Avx512(()))
    }
}

/// Lookups by bytes. For wide indices the widest instruction is one that looks up 64 bytes in 64 or 128: four columns of the
/// sixteen rows at once, once for each byte of an f32.
///
/// Plain `#[inline(always)]` functions, no closures: those are not inlined into the function that has the instructions.
impl Avx512 {
    /// The four indices in the low bits of each lane, one in each byte; above an index stand other bits.
    #[inline(always)]
    fn spread<const BITS: usize>(self, indices: __m512i) -> __m512i {
        if BITS == 8 {
            return indices;
        }
        // For each byte of two lanes, the bit where its index begins.
        let mut starts = 0;
        for byte in 0..8 {
            starts |= (byte / 4 * 32 + byte % 4 * BITS as i64) << (8 * byte);
        }
        // SAFETY: AVX-512 VBMI by the token.
        unsafe { _mm512_multishift_epi64_epi8(_mm512_set1_epi64(starts), indices) }
    }

    /// The byte of each entry that the indices choose. `planes` has `2^BITS / 64`.
    #[inline(always)]
    fn lookup_bytes<const BITS: usize>(self, planes: &[BytePlane], indices: __m512i) -> __m512i {
        // The instructions ignore the bits above the 6 or 7 that they look up with.
        // SAFETY: AVX-512 BW and VBMI by the token.
        unsafe {
            match BITS {
                0..=6 => _mm512_permutexvar_epi8(indices, self.load_plane(&planes[0])),
                7 => _mm512_permutex2var_epi8(self.load_plane(&planes[0]), indices, self.load_plane(&planes[1])),
                _ => {
                    let low =
                        _mm512_permutex2var_epi8(self.load_plane(&planes[0]), indices, self.load_plane(&planes[1]));
                    let high =
                        _mm512_permutex2var_epi8(self.load_plane(&planes[2]), indices, self.load_plane(&planes[3]));
                    _mm512_mask_blend_epi8(_mm512_movepi8_mask(indices), low, high)
                }
            }
        }
    }

    #[inline(always)]
    fn load_plane(self, plane: &BytePlane) -> __m512i {
        // SAFETY: AVX-512 F by the token; the reference covers the 64 bytes that are read, at any alignment.
        unsafe { _mm512_loadu_si512(plane.as_ptr().cast()) }
    }

    /// Two neighbouring bytes of each entry, from their planes: those of columns 0 and 2 in the halves of each lane, and those
    /// of columns 1 and 3.
    #[inline(always)]
    fn lookup_halves<const BITS: usize>(self, planes: &[BytePlane], indices: __m512i) -> (__m512i, __m512i) {
        const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
        let (low, high) = planes.split_at(planes.len() / 2);
        let (low, high) = (
            self.lookup_bytes::<BITS>(low, indices),
            self.lookup_bytes::<BITS>(high, indices),
        );
        // SAFETY: AVX-512 BW by the token.
        unsafe {
            let even = _mm512_mask_blend_epi8(ODD, low, _mm512_slli_epi16::<8>(high));
            let odd = _mm512_mask_blend_epi8(ODD, _mm512_srli_epi16::<8>(low), high);
            (even, odd)
        }
    }

    /// Lower and upper halves of f32, two to a lane, to the first and the second of them.
    #[inline(always)]
    fn join_halves(self, low: __m512i, high: __m512i) -> (__m512, __m512) {
        const ODD: u32 = 0xaaaa_aaaa;
        // SAFETY: AVX-512 BW by the token.
        unsafe {
            let first = _mm512_mask_blend_epi16(ODD, low, _mm512_slli_epi32::<16>(high));
            let second = _mm512_mask_blend_epi16(ODD, _mm512_srli_epi32::<16>(low), high);
            (_mm512_castsi512_ps(first), _mm512_castsi512_ps(second))
        }
    }
}

/// Two palettes of a tile, or one.
#[derive(Clone, Copy)]
pub(crate) struct Shares {
    /// The palette of the lanes that are in `mask`; those before look in palette 0.
    second: usize,
    mask: __mmask16,
    /// The same lanes with bit 4 set: that of an index which chooses the second of two registers.
    choice: __m512i,
}

impl Lanes for Avx512 {
    type Floats = __m512;
    type Words = __m512i;
    type Shares = Shares;

    const INPUTS: usize = 8;
    const TILES: usize = 4;
    const IN_REGISTERS: bool = true;
    const SINGLE_BITS: usize = 5;

    fn run<J: Job, const BITS: usize>(self, job: J) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
        fn enabled<J: Job, const BITS: usize>(lanes: Avx512, job: J) {
            job.run::<Avx512, BITS>(lanes);
        }
        // SAFETY: the token proves that the processor has the features which `enabled` is compiled for.
        unsafe { enabled::<J, BITS>(self, job) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: the token proves that the processor has AVX-512 F. So in every method below.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, lanes: &FloatLanes) -> __m512 {
        // SAFETY: AVX-512 F by the token; the reference covers the 64 bytes that are read, at any alignment.
        unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: __m512, lanes: &mut FloatLanes) {
        // SAFETY: AVX-512 F by the token; the reference covers the 64 bytes that are written, at any alignment.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn load_words(self, lanes: &WordLanes) -> __m512i {
        // SAFETY: AVX-512 F by the token; the reference covers the 64 bytes that are read, at any alignment.
        unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn prefetch(self, address: *const WordLanes) {
        // SAFETY: a prefetch reads nothing that the program sees, and does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: AVX-512 F by the token.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: AVX-512 F by the token.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn shift(self, value: __m512i, by: usize) -> __m512i {
        // SAFETY: AVX-512 F by the token. A variable shift by a constant becomes the immediate form.
        unsafe { _mm512_srlv_epi32(value, _mm512_set1_epi32(by as i32)) }
    }

    #[inline(always)]
    fn shift_pair(self, low: __m512i, high: __m512i, by: usize) -> __m512i {
        // SAFETY: AVX-512 F by the token.
        unsafe {
            let high = _mm512_sllv_epi32(high, _mm512_set1_epi32(32 - by as i32));
            _mm512_or_si512(self.shift(low, by), high)
        }
    }

    #[inline(always)]
    fn lookup<const BITS: usize>(self, lookup: Lookup<'_>, table: usize, index: __m512i) -> __m512 {
        let table = lookup.floats_of::<BITS>(table);
        // The instructions ignore the bits above the 4 or 5 that they look up with; tables of fewer entries repeat up to 16.
        match BITS {
            // SAFETY: AVX-512 F by the token.
            0..=4 => unsafe { _mm512_permutexvar_ps(index, self.load(&table[0])) },
            // SAFETY: AVX-512 F by the token.
            5 => unsafe { _mm512_permutex2var_ps(self.load(&table[0]), index, self.load(&table[1])) },
            _ => {
                let table = table.as_flattened();
                assert!(table.len() >= 1 << BITS);
                // SAFETY: AVX-512 F by the token; each address is an index below 2^BITS, inside the table by the assertion.
                unsafe {
                    let index = _mm512_and_si512(index, _mm512_set1_epi32((1 << BITS) - 1));
                    _mm512_i32gather_ps::<4>(index, table.as_ptr())
                }
            }
        }
    }

    #[inline(always)]
    fn shares(self, palettes: &TilePalettes<'_>) -> Option<Shares> {
        let from = match palettes.groups {
            1 => TILE_ROWS as u32,
            2 => u32::from(palettes.first_lanes[1]),
            _ => return None,
        };
        let mask = u16::MAX.checked_shl(from).unwrap_or(0);
        // SAFETY: AVX-512 F by the token.
        let choice = unsafe { _mm512_maskz_set1_epi32(mask, 16) };
        Some(Shares {
            second: palettes.groups - 1,
            mask,
            choice,
        })
    }

    #[inline(always)]
    fn lookup_shared<const BITS: usize>(
        self,
        lookup: Lookup<'_>,
        shares: Shares,
        column: Column,
        index: __m512i,
    ) -> __m512 {
        let (first, second) = (column.table(0), column.table(shares.second));
        if const { BITS <= 4 } {
            let (first, second) = (lookup.floats_of::<BITS>(first), lookup.floats_of::<BITS>(second));
            // (index and 15) or choice.
            const AND_OR: i32 = 0xea;
            // SAFETY: AVX-512 F by the token.
            unsafe {
                let index = _mm512_ternarylogic_epi32::<AND_OR>(index, _mm512_set1_epi32(15), shares.choice);
                return _mm512_permutex2var_ps(self.load(&first[0]), index, self.load(&second[0]));
            }
        }
        let (first, second) = (
            self.lookup::<BITS>(lookup, first, index),
            self.lookup::<BITS>(lookup, second, index),
        );
        // SAFETY: AVX-512 F by the token.
        unsafe { _mm512_mask_blend_ps(shares.mask, first, second) }
    }

    #[inline(always)]
    fn lookup_four_shared<const BITS: usize>(
        self,
        lookup: Lookup<'_>,
        shares: Shares,
        column: Column,
        indices: __m512i,
    ) -> [__m512; 4] {
        if const { BITS < PLANE_BITS } {
            let [a, b, c, d] = self.shift_four::<BITS>(indices);
            return [
                self.lookup_shared::<BITS>(lookup, shares, column, a),
                self.lookup_shared::<BITS>(lookup, shares, column, b),
                self.lookup_shared::<BITS>(lookup, shares, column, c),
                self.lookup_shared::<BITS>(lookup, shares, column, d),
            ];
        }
        let first = self.lookup_four::<BITS>(lookup, column.table(0), indices);
        let second = self.lookup_four::<BITS>(lookup, column.table(shares.second), indices);
        // SAFETY: AVX-512 F by the token.
        unsafe {
            [
                _mm512_mask_blend_ps(shares.mask, first[0], second[0]),
                _mm512_mask_blend_ps(shares.mask, first[1], second[1]),
                _mm512_mask_blend_ps(shares.mask, first[2], second[2]),
                _mm512_mask_blend_ps(shares.mask, first[3], second[3]),
            ]
        }
    }

    #[inline(always)]
    fn choose_from(self, lane: usize, low: __m512, high: __m512) -> __m512 {
        // SAFETY: AVX-512 F by the token.
        unsafe { _mm512_mask_blend_ps(u16::MAX << lane, low, high) }
    }

    #[inline(always)]
    fn lookup_four<const BITS: usize>(self, lookup: Lookup<'_>, table: usize, indices: __m512i) -> [__m512; 4] {
        if const { BITS < PLANE_BITS } {
            let [a, b, c, d] = self.shift_four::<BITS>(indices);
            return [
                self.lookup::<BITS>(lookup, table, a),
                self.lookup::<BITS>(lookup, table, b),
                self.lookup::<BITS>(lookup, table, c),
                self.lookup::<BITS>(lookup, table, d),
            ];
        }
        let planes = lookup.planes_of::<BITS>(table);
        let (low, high) = planes.split_at(planes.len() / 2);
        let indices = self.spread::<BITS>(indices);
        let (even_low, odd_low) = self.lookup_halves::<BITS>(low, indices);
        let (even_high, odd_high) = self.lookup_halves::<BITS>(high, indices);
        let (first, third) = self.join_halves(even_low, even_high);
        let (second, fourth) = self.join_halves(odd_low, odd_high);
        [first, second, third, fourth]
    }
}
