//! The passes over the weights of a matrix: counting, sums by 16-bit key, looking up.
//!
//! What lies between them, on tables by key, is [`repetitions`](crate::repetitions)' on the device, or `edkm-cluster`'s on the host: the functions
//! that take or give tables of the host are for the cases that the device leaves to it, some palettes at a time.
#![allow(unsafe_code)]

pub use crate::halves::Half;

use crate::check::{self, TooLarge};
use crate::runtime::{blocks_of_grid, THREADS};
use crate::Argument::Size;
use crate::{Argument, Array, Runtime, Slice, SliceMut};

/// Number of 16-bit keys.
pub const KEYS: usize = 1 << 16;

/// As in `cuda/clustering.cu`.
const WINDOW: usize = 1408;

/// As in `cuda/clustering.cu`.
const MOST_OF_BLOCK: usize = 32768;

/// How often each key occurs.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts {
    /// `[KEYS]`
    pub counts: Vec<u32>,
    /// The largest magnitude, as the bits of an f32: above those of infinity for NaN.
    pub magnitude_bits: u32,
}

/// The weights of a matrix in P palettes, one after the other: N weights each, fewer in the last.
#[derive(Debug, Clone, Copy)]
pub struct Palettes<'a> {
    weights: Slice<'a, f32>,
    weights_per_palette: usize,
    half: Half,
    expected: Option<f32>,
}

impl<'a> Palettes<'a> {
    /// `weights` in palettes of so many, rounded to this format.
    ///
    /// # Panics
    /// For palettes of no weight or of 2^32 or more.
    pub fn new(weights: Slice<'a, f32>, weights_per_palette: usize, half: Half) -> Self {
        assert!(
            u32::try_from(weights_per_palette).is_ok_and(|len| len > 0),
            "{weights_per_palette} weights of one palette: from 1 to 2^32 - 1"
        );
        Palettes {
            weights,
            weights_per_palette,
            half,
            expected: None,
        }
    }

    /// The same, to be counted faster where hardly any weight is larger than this, nor smaller than a thousandth of it.
    pub fn expecting(self, largest: f32) -> Self {
        Palettes {
            expected: Some(largest),
            ..self
        }
    }

    /// One palette.
    pub fn one(weights: Slice<'a, f32>, half: Half) -> Self {
        Self::new(weights, weights.len(), half)
    }

    /// P
    pub fn palettes(self) -> usize {
        self.weights.len().div_ceil(self.weights_per_palette)
    }

    /// N
    pub fn weights_per_palette(self) -> usize {
        self.weights_per_palette
    }

    /// How many weights there are.
    pub(crate) fn len(self) -> usize {
        self.weights.len()
    }

    pub(crate) fn half(self) -> Half {
        self.half
    }

    /// The palettes in parts of so many at most: the first of each part, and the part.
    pub fn parts(self, most: usize) -> impl Iterator<Item = (usize, Self)> {
        let (palettes, most) = (self.palettes(), most.max(1));
        (0..palettes)
            .step_by(most)
            .map(move |first| (first, self.part(first, most.min(palettes - first))))
    }

    /// So many palettes from `first` on.
    pub(crate) fn part(self, first: usize, palettes: usize) -> Self {
        let range = self.weights_of(first, palettes);
        Palettes {
            weights: self.weights.part(range.start, range.len()),
            ..self
        }
    }

    /// Where the weights of so many palettes from `first` on lie among all.
    pub fn weights_of(self, first: usize, palettes: usize) -> std::ops::Range<usize> {
        let len = self.weights_per_palette;
        first * len..((first + palettes) * len).min(self.len())
    }

    /// Blocks for each palette if a block is to have so many weights, but no fewer than `few` run on the device; and blocks in all.
    fn blocks(self, weights_of_block: usize, few: usize) -> Result<(usize, u32), TooLarge> {
        /// Weights that a block at least has.
        const LEAST: usize = 8 * THREADS;
        let (palettes, len) = (self.palettes().max(1), self.weights_per_palette);
        let few = (few / palettes).min(len.div_ceil(LEAST));
        let per = len.div_ceil(weights_of_block).max(few).max(1);
        let blocks = blocks_of_grid("blocks of a pass over weights [blocks of each, P]", [per, palettes])?;
        Ok((per, blocks))
    }

    /// For kernels whose blocks have a window of counters of their own to fill and to add up, so that each gets many weights.
    fn counting_blocks(self) -> Result<(usize, u32), TooLarge> {
        self.blocks(MOST_OF_BLOCK, 512)
    }

    /// For kernels that go over the weights once.
    fn streaming_blocks(self) -> Result<(usize, u32), TooLarge> {
        self.blocks(16 * THREADS, 512)
    }

    /// The first of the magnitude keys that blocks count for themselves.
    fn first_of_window(self) -> Argument {
        // by binades: of bf16 11, of f16 nearly one and a half
        let (keys_of_binade, top) = match self.half {
            Half::Bf16 => (7, 0x4000),
            Half::F16 => (10, 0x3400),
        };
        let top = match self.expected.filter(|largest| largest.is_finite()) {
            Some(largest) => ((usize::from(self.half.key(largest.abs())) >> keys_of_binade) + 1) << keys_of_binade,
            None => top,
        };
        Size(top.saturating_sub(WINDOW))
    }
}

/// Adds to `counts [P, KEYS]` how often each key occurs, and brings `magnitudes [P]` up to the largest magnitudes, as the bits of an f32.
///
/// # Errors
/// The runtime's.
pub fn count_into<R: Runtime>(
    runtime: &R,
    weights: Palettes<'_>,
    counts: &mut SliceMut<'_, u32>,
    magnitudes: &mut SliceMut<'_, u32>,
) -> Result<(), R::Error> {
    check::len("counts [P, KEYS]", counts.len(), weights.palettes() * KEYS);
    check::len("magnitudes [P]", magnitudes.len(), weights.palettes());
    let (per, blocks) = weights.counting_blocks()?;
    let arguments = [
        weights.weights.argument(),
        weights.half.argument(),
        counts.argument(),
        magnitudes.argument(),
        Size(weights.weights_per_palette()),
        Size(weights.len()),
        Size(per),
        weights.first_of_window(),
    ];
    // SAFETY: edkm_count_keys(weights, kind, counts, magnitudes, len, all, blocks of each, first of the window) reaches `len` weights, the counters of 16-bit keys and one
    // magnitude of each palette; as many palettes as the grid has blocks for.
    unsafe { runtime.launch("edkm_count_keys", blocks, &arguments) }
}

/// Adds to `sums [P, KEYS]` the `addends`, one for each weight, over the weights of each key, in units that follow from the largest magnitude of each
/// palette's addends, which `magnitudes [P]` is brought up to, as the bits of an f32; both are zeros before. Returns what else the unit follows from.
///
/// Sums are taken in 64-bit fixed point, whose unit is at most 2^-32 of the largest magnitude (2^-61 N where there are more than 2^29 addends): they do not
/// depend on the order, and are exact to half a unit a term. All of a palette count as NaN if an addend is not finite.
///
/// # Errors
/// The runtime's.
pub fn sum_into<R: Runtime>(
    runtime: &R,
    weights: Palettes<'_>,
    addends: Slice<'_, f32>,
    sums: &mut SliceMut<'_, i64>,
    magnitudes: &mut SliceMut<'_, u32>,
) -> Result<UnitBits, R::Error> {
    check::len("addends", addends.len(), weights.len());
    check::len("sums [P, KEYS]", sums.len(), weights.palettes() * KEYS);
    check::len("magnitudes [P]", magnitudes.len(), weights.palettes());
    let len = weights.weights_per_palette();
    let (per, blocks) = weights.streaming_blocks()?;
    let arguments = [
        addends.argument(),
        magnitudes.argument(),
        Size(len),
        Size(weights.len()),
        Size(per),
    ];
    // SAFETY: edkm_largest_magnitude(x, magnitudes, len, all, blocks of each) reaches `len` numbers and one magnitude of each palette.
    unsafe { runtime.launch("edkm_largest_magnitude", blocks, &arguments) }?;
    let bits = UnitBits::of(len);
    let (per, blocks) = weights.counting_blocks()?;
    let arguments = [
        weights.weights.argument(),
        weights.half.argument(),
        addends.argument(),
        magnitudes.argument(),
        bits.argument(),
        sums.argument(),
        Size(len),
        Size(weights.len()),
        Size(per),
        weights.first_of_window(),
    ];
    // SAFETY: edkm_sum_by_key(weights, kind, addends, magnitudes, bits, sums, len, all, blocks of each, first of the window), blocks of at most MOST_OF_BLOCK weights,
    // reaches `len` weights and addends, one magnitude and the sums of 16-bit keys of each palette.
    unsafe { runtime.launch("edkm_sum_by_key", blocks, &arguments) }?;
    Ok(bits)
}

/// log2 of the largest addend in the units of its sums, rounded up: see `units_of` in `cuda/prelude.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitBits(usize);

impl UnitBits {
    /// For so many addends.
    fn of(addends: usize) -> Self {
        /// As in `cuda/prelude.cuh`.
        const MOST: usize = 33;
        UnitBits(MOST.min(62 - (usize::BITS - addends.leading_zeros()) as usize))
    }

    pub(crate) fn argument(self) -> Argument {
        Size(self.0)
    }

    /// 1 / the unit, given the largest magnitude.
    fn units(self, magnitude_bits: u32) -> f64 {
        let biased = ((magnitude_bits >> 23) as i32).max(1);
        f64::from(self.0 as i32 + 126 - biased).exp2()
    }
}

/// `out[i] = table[key of weights[i]]` with `tables [P, KEYS]`.
///
/// # Errors
/// The runtime's.
pub fn look_up_in<R: Runtime>(
    runtime: &R,
    weights: Palettes<'_>,
    tables: Slice<'_, f32>,
    mut out: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    check::len("tables [P, KEYS]", tables.len(), weights.palettes() * KEYS);
    check::len("out", out.len(), weights.len());
    let (per, blocks) = weights.streaming_blocks()?;
    let arguments = [
        weights.weights.argument(),
        weights.half.argument(),
        tables.argument(),
        out.argument(),
        Size(weights.weights_per_palette()),
        Size(weights.len()),
        Size(per),
    ];
    // SAFETY: edkm_look_up(weights, kind, tables, out, len, all, blocks of each) reaches `len` weights and numbers of out, and the entries of 16-bit keys
    // of each palette.
    unsafe { runtime.launch("edkm_look_up", blocks, &arguments) }
}

/// `total[i] += grad[i] slope + shift` with `[slope, shift] = table[key of weights[i]]` and `tables [P, KEYS]`.
///
/// # Errors
/// The runtime's.
pub fn multiply_add_in<R: Runtime>(
    runtime: &R,
    weights: Palettes<'_>,
    tables: Slice<'_, [f32; 2]>,
    grad: Slice<'_, f32>,
    mut total: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    check::len("tables [P, KEYS]", tables.len(), weights.palettes() * KEYS);
    check::len("grad", grad.len(), weights.len());
    check::len("total", total.len(), weights.len());
    let (per, blocks) = weights.streaming_blocks()?;
    let arguments = [
        weights.weights.argument(),
        weights.half.argument(),
        tables.argument(),
        grad.argument(),
        total.argument(),
        Size(weights.weights_per_palette()),
        Size(weights.len()),
        Size(per),
    ];
    // SAFETY: edkm_multiply_add(weights, kind, tables, grad, total, len, all, blocks of each) reaches `len` numbers of each, and the pairs of 16-bit keys of
    // each palette.
    unsafe { runtime.launch("edkm_multiply_add", blocks, &arguments) }
}

/// Counts the keys of each palette's weights, `[P]`. Waits for the device. Scratch, there and on the host: 256 KiB a palette.
///
/// # Errors
/// The runtime's.
pub fn count<R: Runtime>(runtime: &R, weights: Palettes<'_>) -> Result<Vec<Counts>, R::Error> {
    let palettes = weights.palettes();
    let mut found = Array::<R, u32>::zeroed(runtime, palettes * (KEYS + 1))?;
    let [mut counts, mut magnitudes] = found.as_mut().split([palettes * KEYS, palettes]);
    count_into(runtime, weights, &mut counts, &mut magnitudes)?;
    let found = found.to_host(runtime)?;
    let (counts, magnitudes) = found.split_at(palettes * KEYS);
    let each = counts.chunks_exact(KEYS).zip(magnitudes);
    Ok(each
        .map(|(counts, &magnitude_bits)| Counts {
            counts: counts.to_vec(),
            magnitude_bits,
        })
        .collect())
}

/// Sums `addends`, one for each weight, over the weights of each key: `[P][KEYS]`, on the host. Waits for the device. As [`sum_into`]; scratch, there and on the
/// host: 512 KiB a palette.
///
/// # Errors
/// The runtime's.
pub fn sum_by_key<R: Runtime>(
    runtime: &R,
    weights: Palettes<'_>,
    addends: Slice<'_, f32>,
) -> Result<Vec<Vec<f64>>, R::Error> {
    let palettes = weights.palettes();
    let mut sums = Array::<R, i64>::zeroed(runtime, palettes * KEYS)?;
    let mut magnitudes = Array::<R, u32>::zeroed(runtime, palettes)?;
    let bits = sum_into(runtime, weights, addends, &mut sums.as_mut(), &mut magnitudes.as_mut())?;
    let (sums, magnitudes) = (sums.to_host(runtime)?, magnitudes.to_host(runtime)?);
    let each = sums.chunks_exact(KEYS).zip(magnitudes);
    Ok(each
        .map(|(sums, magnitude)| {
            if magnitude >= f32::INFINITY.to_bits() {
                return vec![f64::NAN; KEYS];
            }
            let units = bits.units(magnitude);
            sums.iter().map(|&sum| sum as f64 / units).collect()
        })
        .collect())
}

/// [`look_up_in`] with `tables [P, KEYS]` on the host.
///
/// # Errors
/// The runtime's.
pub fn look_up<R: Runtime>(
    runtime: &R,
    weights: Palettes<'_>,
    tables: &[f32],
    out: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let tables = Array::from_host(runtime, tables)?;
    look_up_in(runtime, weights, tables.as_slice(), out)
}

/// [`multiply_add_in`] with `tables [P, KEYS]` on the host.
///
/// # Errors
/// The runtime's.
pub fn multiply_add<R: Runtime>(
    runtime: &R,
    weights: Palettes<'_>,
    tables: &[[f32; 2]],
    grad: Slice<'_, f32>,
    total: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let tables = Array::from_host(runtime, tables)?;
    multiply_add_in(runtime, weights, tables.as_slice(), grad, total)
}
