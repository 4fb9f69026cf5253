//! Sixteen lanes in four 128-bit registers, for AArch64.
//!
//! The instruction of a lookup finds single bytes, in tables of 16 to 64 of them: four indices of each row lie in the four bytes
//! of its lane, and each byte of an f32 is looked up in a plane of its own.
#![allow(unsafe_code)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::lanes::{Job, Lanes};
use crate::layout::WordLanes;
use crate::tables::{BytePlane, Column, FloatLanes, Lookup, TilePalettes};

/// Proof that the processor has NEON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(());

impl Neon {
    /// The token, where the processor has the instructions: all do that the standard library is made for.
    pub(crate) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }

    /// `value >> by`; a shift by a constant becomes the immediate form.
    #[inline(always)]
    fn shift_quarter(self, value: uint32x4_t, by: usize) -> uint32x4_t {
        // SAFETY: NEON by the token. So in every method below.
        unsafe { vshlq_u32(value, vdupq_n_s32(-(by as i32))) }
    }

    /// The four indices in the low bits of each lane, one in each byte, without what stands above them. Tables of fewer than 16
    /// entries repeat up to 16, so that four bits may be left of each index.
    #[inline(always)]
    fn spread<const BITS: usize>(self, indices: uint32x4_t) -> uint8x16_t {
        // SAFETY: NEON by the token.
        unsafe {
            if const { BITS == 8 } {
                return vreinterpretq_u8_u32(indices);
            }
            // Two to each half of a lane, then one to each byte.
            let halves = vsliq_n_u32::<16>(indices, self.shift_quarter(indices, 2 * BITS));
            let halves = vreinterpretq_u16_u32(halves);
            let upper = vshlq_u16(halves, vdupq_n_s16(-(BITS as i16)));
            let bytes = vreinterpretq_u8_u16(vsliq_n_u16::<8>(halves, upper));
            let mask = const { (1u16 << if BITS < 4 { 4 } else { BITS }) - 1 };
            vandq_u8(bytes, vdupq_n_u8(mask as u8))
        }
    }

    /// The byte of each entry that the indices choose, in planes of 16 entries.
    #[inline(always)]
    fn lookup_bytes<const BITS: usize>(self, planes: &[BytePlane], indices: uint8x16_t) -> uint8x16_t {
        // SAFETY: NEON by the token.
        unsafe {
            match BITS {
                0..=4 => vqtbl1q_u8(self.load_plane(&planes[0]), indices),
                5 => {
                    let table = uint8x16x2_t(self.load_plane(&planes[0]), self.load_plane(&planes[1]));
                    vqtbl2q_u8(table, indices)
                }
                _ => {
                    // What lies beyond a table leaves the byte as it is.
                    let mut bytes = vqtbl4q_u8(self.load_table(planes, 0), indices);
                    for table in 1..const { (1 << BITS) / 64 } {
                        let indices = vsubq_u8(indices, vdupq_n_u8(64 * table as u8));
                        bytes = vqtbx4q_u8(bytes, self.load_table(planes, table), indices);
                    }
                    bytes
                }
            }
        }
    }

    /// Planes for 64 entries.
    #[inline(always)]
    fn load_table(self, planes: &[BytePlane], table: usize) -> uint8x16x4_t {
        let planes = &planes[4 * table..][..4];
        uint8x16x4_t(
            self.load_plane(&planes[0]),
            self.load_plane(&planes[1]),
            self.load_plane(&planes[2]),
            self.load_plane(&planes[3]),
        )
    }

    #[inline(always)]
    fn load_plane(self, plane: &BytePlane) -> uint8x16_t {
        // SAFETY: NEON by the token; the reference covers the 16 bytes that are read, at any alignment.
        unsafe { vld1q_u8(plane.as_ptr()) }
    }

    /// Lookups for four of the sixteen rows: one register for each of the four indices.
    #[inline(always)]
    fn lookup_quarter<const BITS: usize>(self, planes: &[BytePlane], indices: uint32x4_t) -> [float32x4_t; 4] {
        let indices = self.spread::<BITS>(indices);
        let rows = planes.len() / 4;
        let byte_0 = self.lookup_bytes::<BITS>(&planes[..rows], indices);
        let byte_1 = self.lookup_bytes::<BITS>(&planes[rows..2 * rows], indices);
        let byte_2 = self.lookup_bytes::<BITS>(&planes[2 * rows..3 * rows], indices);
        let byte_3 = self.lookup_bytes::<BITS>(&planes[3 * rows..], indices);
        // In each lane: bytes to the halves of entries 0 and 2 and of entries 1 and 3, halves to entries.
        // SAFETY: NEON by the token.
        unsafe {
            let even_low = vreinterpretq_u16_u8(vtrn1q_u8(byte_0, byte_1));
            let odd_low = vreinterpretq_u16_u8(vtrn2q_u8(byte_0, byte_1));
            let even_high = vreinterpretq_u16_u8(vtrn1q_u8(byte_2, byte_3));
            let odd_high = vreinterpretq_u16_u8(vtrn2q_u8(byte_2, byte_3));
            [
                vreinterpretq_f32_u16(vtrn1q_u16(even_low, even_high)),
                vreinterpretq_f32_u16(vtrn1q_u16(odd_low, odd_high)),
                vreinterpretq_f32_u16(vtrn2q_u16(even_low, even_high)),
                vreinterpretq_f32_u16(vtrn2q_u16(odd_low, odd_high)),
            ]
        }
    }

    /// For the four lanes from lane `first` on.
    #[inline(always)]
    fn choose_from_quarter(self, lane: usize, first: u32, low: float32x4_t, high: float32x4_t) -> float32x4_t {
        const LANES: [u32; 4] = [0, 1, 2, 3];
        // SAFETY: NEON by the token; the array covers the 16 bytes that are read.
        unsafe {
            let lanes = vaddq_u32(vld1q_u32(LANES.as_ptr()), vdupq_n_u32(first));
            let below = vcltq_u32(lanes, vdupq_n_u32(lane as u32));
            vbslq_f32(below, low, high)
        }
    }
}

/// Applies a method to the four registers of each argument.
macro_rules! quarters {
    (|$($value:ident),*| $body:expr) => {
        [
            { let ($($value,)*) = ($($value[0],)*); $body },
            { let ($($value,)*) = ($($value[1],)*); $body },
            { let ($($value,)*) = ($($value[2],)*); $body },
            { let ($($value,)*) = ($($value[3],)*); $body },
        ]
    };
}

/// From the four indices of each quarter to the four quarters of each index.
#[inline(always)]
fn by_index(quarters: [[float32x4_t; 4]; 4]) -> [[float32x4_t; 4]; 4] {
    let [a, b, c, d] = quarters;
    [
        [a[0], b[0], c[0], d[0]],
        [a[1], b[1], c[1], d[1]],
        [a[2], b[2], c[2], d[2]],
        [a[3], b[3], c[3], d[3]],
    ]
}

impl Lanes for Neon {
    type Floats = [float32x4_t; 4];
    type Words = [uint32x4_t; 4];
    /// The palette of each quarter.
    type Shares = [usize; 4];

    const INPUTS: usize = 4;
    const TILES: usize = 1;
    const IN_REGISTERS: bool = true;
    const SINGLE_BITS: usize = 0;

    fn run<J: Job, const BITS: usize>(self, job: J) {
        #[target_feature(enable = "neon")]
        fn enabled<J: Job, const BITS: usize>(lanes: Neon, job: J) {
            job.run::<Neon, BITS>(lanes);
        }
        // SAFETY: the token proves that the processor has the features which `enabled` is compiled for.
        unsafe { enabled::<J, BITS>(self, job) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Floats {
        // SAFETY: NEON by the token.
        [unsafe { vdupq_n_f32(value) }; 4]
    }

    #[inline(always)]
    fn load(self, lanes: &FloatLanes) -> Self::Floats {
        let (quarters, _) = lanes.as_chunks::<4>();
        // SAFETY: NEON by the token; each reference covers the 16 bytes that are read, at any alignment.
        quarters!(|quarters| unsafe { vld1q_f32(quarters.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, value: Self::Floats, lanes: &mut FloatLanes) {
        let (quarters, _) = lanes.as_chunks_mut::<4>();
        for (quarter, value) in quarters.iter_mut().zip(value) {
            // SAFETY: NEON by the token; the reference covers the 16 bytes that are written, at any alignment.
            unsafe { vst1q_f32(quarter.as_mut_ptr(), value) }
        }
    }

    #[inline(always)]
    fn load_words(self, lanes: &WordLanes) -> Self::Words {
        let (quarters, _) = lanes.as_chunks::<4>();
        // SAFETY: NEON by the token; each reference covers the 16 bytes that are read, at any alignment.
        quarters!(|quarters| unsafe { vld1q_u32(quarters.as_ptr()) })
    }

    #[inline(always)]
    fn prefetch(self, address: *const WordLanes) {
        // SAFETY: a prefetch reads nothing that the program sees, and does not fault.
        unsafe {
            asm!("prfm pldl1keep, [{address}]", address = in(reg) address, options(nostack, preserves_flags, readonly));
        }
    }

    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: NEON by the token.
        quarters!(|a, b| unsafe { vaddq_f32(a, b) })
    }

    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: NEON by the token.
        quarters!(|a, b, c| unsafe { vfmaq_f32(c, a, b) })
    }

    #[inline(always)]
    fn shift(self, value: Self::Words, by: usize) -> Self::Words {
        quarters!(|value| self.shift_quarter(value, by))
    }

    #[inline(always)]
    fn shift_pair(self, low: Self::Words, high: Self::Words, by: usize) -> Self::Words {
        // SAFETY: NEON by the token.
        quarters!(|low, high| unsafe {
            let high = vshlq_u32(high, vdupq_n_s32(32 - by as i32));
            vorrq_u32(self.shift_quarter(low, by), high)
        })
    }

    #[inline(always)]
    fn choose_from(self, lane: usize, low: Self::Floats, high: Self::Floats) -> Self::Floats {
        [
            self.choose_from_quarter(lane, 0, low[0], high[0]),
            self.choose_from_quarter(lane, 4, low[1], high[1]),
            self.choose_from_quarter(lane, 8, low[2], high[2]),
            self.choose_from_quarter(lane, 12, low[3], high[3]),
        ]
    }

    #[inline(always)]
    fn shares(self, palettes: &TilePalettes<'_>) -> Option<[usize; 4]> {
        palettes.of_runs()
    }

    #[inline(always)]
    fn lookup_shared<const BITS: usize>(
        self,
        lookup: Lookup<'_>,
        shares: [usize; 4],
        column: Column,
        index: Self::Words,
    ) -> Self::Floats {
        self.lookup_four_shared::<BITS>(lookup, shares, column, index)[0]
    }

    #[inline(always)]
    fn lookup_four_shared<const BITS: usize>(
        self,
        lookup: Lookup<'_>,
        shares: [usize; 4],
        column: Column,
        indices: Self::Words,
    ) -> [Self::Floats; 4] {
        by_index(quarters!(|indices, shares| {
            self.lookup_quarter::<BITS>(lookup.planes_of::<BITS>(column.table(shares)), indices)
        }))
    }

    #[inline(always)]
    fn lookup<const BITS: usize>(self, lookup: Lookup<'_>, table: usize, index: Self::Words) -> Self::Floats {
        self.lookup_four::<BITS>(lookup, table, index)[0]
    }

    #[inline(always)]
    fn lookup_four<const BITS: usize>(
        self,
        lookup: Lookup<'_>,
        table: usize,
        indices: Self::Words,
    ) -> [Self::Floats; 4] {
        let planes = lookup.planes_of::<BITS>(table);
        by_index(quarters!(|indices| self.lookup_quarter::<BITS>(planes, indices)))
    }
}
