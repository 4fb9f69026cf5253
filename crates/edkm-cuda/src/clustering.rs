//! The passes over the weights of a matrix: counting, sums by 16-bit key, looking up.
//!
//! What lies between them, on tables by key, is [`repetitions`](crate::repetitions)' on the device, or `edkm-cluster`'s on the host: the functions
//! that take or give tables of the host are for one palette and for the cases that the device leaves to it.
#![allow(unsafe_code)]

use crate::runtime::THREADS;
use crate::Argument::Size;
use crate::{check, Array, Runtime, Slice, SliceMut};

/// Number of 16-bit keys.
pub const KEYS: usize = 1 << 16;

/// The 16-bit format that weights are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// bfloat16
    Bf16,
    /// IEEE 754 half precision
    F16,
}

impl Half {
    pub(crate) fn argument(self) -> crate::Argument {
        Size(match self {
            Half::Bf16 => 0,
            Half::F16 => 1,
        })
    }
}

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

    /// All weights.
    pub(crate) fn len(self) -> usize {
        self.weights.len()
    }

    pub(crate) fn half(self) -> Half {
        self.half
    }

    /// So many palettes from `first` on.
    pub(crate) fn part(self, first: usize, palettes: usize) -> Self {
        let range = self.weights_of(first, palettes);
        Palettes {
            weights: self.weights.part(range.start, range.len()),
            ..self
        }
    }

    /// The weights of so many palettes from `first` on.
    pub(crate) fn weights_of(self, first: usize, palettes: usize) -> std::ops::Range<usize> {
        let len = self.weights_per_palette;
        first * len..((first + palettes) * len).min(self.len())
    }

    /// Blocks for each palette if a block is to have so many weights a thread, and some are to run at once; and blocks in all.
    fn blocks(self, weights_of_thread: usize) -> (usize, u32) {
        /// No device runs more at once.
        const MOST: usize = 1 << 12;
        let palettes = self.palettes();
        let most = (MOST / palettes).max(1);
        let per = self
            .weights_per_palette()
            .div_ceil(weights_of_thread * THREADS)
            .clamp(1, most);
        (per, (per * palettes) as u32)
    }

    /// For kernels whose blocks have a window of counters of their own to fill and to add up, so that each gets many weights.
    fn counting_blocks(self) -> (usize, u32) {
        self.blocks(64)
    }

    /// For kernels that go over the weights once.
    fn streaming_blocks(self) -> (usize, u32) {
        self.blocks(8)
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
    let (per, blocks) = weights.counting_blocks();
    let arguments = [
        weights.weights.argument(),
        weights.half.argument(),
        counts.argument(),
        magnitudes.argument(),
        Size(weights.weights_per_palette()),
        Size(weights.len()),
        Size(per),
    ];
    // SAFETY: edkm_count_keys(weights, kind, counts, magnitudes, len, all, blocks of each) reaches `len` weights, the counters of 16-bit keys and one
    // magnitude of each palette; as many palettes as the grid has blocks for.
    unsafe { runtime.launch("edkm_count_keys", blocks, &arguments) }
}

/// Sums by key of each palette on the device.
pub struct Sums<R: Runtime> {
    /// `[P, KEYS]`, in units that follow from the palette's magnitude.
    pub(crate) sums: Array<R, i64>,
    /// The largest magnitude of the addends of each palette, as the bits of an f32.
    pub(crate) magnitudes: Array<R, u32>,
    /// How many bits the number of addends of a palette takes.
    pub(crate) bits: usize,
}

/// Sums `addends`, one for each weight, over the weights of each key.
///
/// Sums are taken in 64-bit fixed point, whose unit is below 2^-59 N times the largest magnitude: they do not depend on the order, and are exact to
/// half a unit a term. All of a palette count as NaN if an addend is not finite. Scratch: 512 KiB a palette.
///
/// # Errors
/// The runtime's.
pub fn sum_into<R: Runtime>(runtime: &R, weights: Palettes<'_>, addends: Slice<'_, f32>) -> Result<Sums<R>, R::Error> {
    check::len("addends", addends.len(), weights.len());
    let len = weights.weights_per_palette();
    let mut magnitudes = Array::<R, u32>::zeroed(runtime, weights.palettes())?;
    let (per, blocks) = weights.streaming_blocks();
    let arguments = [
        addends.argument(),
        magnitudes.as_mut().argument(),
        Size(len),
        Size(weights.len()),
        Size(per),
    ];
    // SAFETY: edkm_largest_magnitude(x, magnitudes, len, all, blocks of each) reaches `len` numbers and one magnitude of each palette.
    unsafe { runtime.launch("edkm_largest_magnitude", blocks, &arguments) }?;
    let bits = (usize::BITS - len.leading_zeros()) as usize;
    let mut sums = Array::<R, i64>::zeroed(runtime, weights.palettes() * KEYS)?;
    let (per, blocks) = weights.counting_blocks();
    let arguments = [
        weights.weights.argument(),
        weights.half.argument(),
        addends.argument(),
        magnitudes.as_slice().argument(),
        Size(bits),
        sums.as_mut().argument(),
        Size(len),
        Size(weights.len()),
        Size(per),
    ];
    // SAFETY: edkm_sum_by_key(weights, kind, addends, magnitudes, bits, sums, len, all, blocks of each) reaches `len` weights and addends, one magnitude and
    // the sums of 16-bit keys of each palette.
    unsafe { runtime.launch("edkm_sum_by_key", blocks, &arguments) }?;
    Ok(Sums { sums, magnitudes, bits })
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
    let (per, blocks) = weights.streaming_blocks();
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
    let (per, blocks) = weights.streaming_blocks();
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

/// Counts the keys of one palette's `weights [N]`. Waits for the device. Scratch: 256 KiB.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// For 2^32 weights or more.
pub fn count<R: Runtime>(runtime: &R, weights: Slice<'_, f32>, half: Half) -> Result<Counts, R::Error> {
    let mut found = Array::<R, u32>::zeroed(runtime, KEYS)?;
    let mut magnitude = Array::<R, u32>::zeroed(runtime, 1)?;
    let palette = Palettes::one(weights, half);
    count_into(runtime, palette, &mut found.as_mut(), &mut magnitude.as_mut())?;
    Ok(Counts {
        counts: found.to_host(runtime)?,
        magnitude_bits: magnitude.to_host(runtime)?.first().copied().unwrap_or(0),
    })
}

/// Sums `addends [N]` over the `weights [N]` of each key of one palette: `[KEYS]`, on the host. Waits for the device. As [`sum_into`].
///
/// # Errors
/// The runtime's.
pub fn sum_by_key<R: Runtime>(
    runtime: &R,
    weights: Slice<'_, f32>,
    half: Half,
    addends: Slice<'_, f32>,
) -> Result<Vec<f64>, R::Error> {
    let Sums { sums, magnitudes, bits } = sum_into(runtime, Palettes::one(weights, half), addends)?;
    let magnitude = magnitudes.to_host(runtime)?.first().copied().unwrap_or(0);
    if magnitude >= f32::INFINITY.to_bits() {
        return Ok(vec![f64::NAN; KEYS]);
    }
    let units = units_of(magnitude, bits);
    let sums = sums.to_host(runtime)?;
    Ok(sums.into_iter().map(|sum| sum as f64 / units).collect())
}

/// As in `cuda/prelude.cuh`.
fn units_of(magnitude_bits: u32, bits: usize) -> f64 {
    let biased = ((magnitude_bits >> 23) as i32).max(1);
    f64::from(62 - bits as i32 + 126 - biased).exp2()
}

/// `out[i] = table[key of weights[i]]` of one palette. `table [KEYS]` on the host.
///
/// # Errors
/// The runtime's.
pub fn look_up<R: Runtime>(
    runtime: &R,
    weights: Slice<'_, f32>,
    half: Half,
    table: &[f32],
    out: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let table = Array::from_host(runtime, table)?;
    look_up_in(runtime, Palettes::one(weights, half), table.as_slice(), out)
}

/// `total[i] += grad[i] slope + shift` with `[slope, shift] = table[key of weights[i]]` of one palette. `table [KEYS]` on the host.
///
/// # Errors
/// The runtime's.
pub fn multiply_add<R: Runtime>(
    runtime: &R,
    weights: Slice<'_, f32>,
    half: Half,
    table: &[[f32; 2]],
    grad: Slice<'_, f32>,
    total: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    let table = Array::from_host(runtime, table)?;
    let palette = Palettes::one(weights, half);
    multiply_add_in(runtime, palette, table.as_slice(), grad, total)
}
