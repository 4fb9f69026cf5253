//! The passes over the weights of a palette: counting, sums by 16-bit key, looking up.
//!
//! What lies between them, the tables over distinct values, is `edkm-cluster`'s, on the host.
#![allow(unsafe_code)]

use crate::runtime::THREADS;
use crate::Argument::{Double, Size};
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
    fn argument(self) -> crate::Argument {
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

/// Blocks that count: each has a window of counters of its own to fill and to add up, so each gets many weights.
fn counting_blocks(len: usize) -> u32 {
    const WEIGHTS: usize = 64 * THREADS;
    const MOST: usize = 1024;
    len.div_ceil(WEIGHTS).clamp(1, MOST) as u32
}

/// Counts the keys of `weights [N]`. Waits for the device. Scratch: 256 KiB.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// For 2^32 weights or more.
pub fn count<R: Runtime>(runtime: &R, weights: Slice<'_, f32>, half: Half) -> Result<Counts, R::Error> {
    let len = weights.len();
    assert!(
        u32::try_from(len).is_ok(),
        "{len} weights of one palette: at most 2^32 - 1"
    );
    let mut found = Array::<R, u32>::zeroed(runtime, KEYS + 1)?;
    let mut found_mut = found.as_mut();
    let arguments = [
        weights.argument(),
        half.argument(),
        found_mut.part(0, KEYS).argument(),
        found_mut.part(KEYS, 1).argument(),
        Size(len),
    ];
    // SAFETY: edkm_count_keys(weights, kind, counts, magnitude, len) reaches `len` weights, the counters of 16-bit keys, and one number more.
    unsafe { runtime.launch("edkm_count_keys", counting_blocks(len), &arguments) }?;
    let mut counts = found.to_host(runtime)?;
    let magnitude_bits = counts.pop().unwrap_or(0);
    Ok(Counts { counts, magnitude_bits })
}

/// Sums `addends [N]` over the `weights [N]` of each key: `[KEYS]`, on the host. Waits for the device. Scratch: 512 KiB.
///
/// Sums are taken in 64-bit fixed point, whose unit is below 2^-59 N times the largest magnitude: they do not depend on the order, and are exact to
/// half a unit a term. All are NaN if an addend is not finite.
///
/// # Errors
/// The runtime's.
pub fn sum_by_key<R: Runtime>(
    runtime: &R,
    weights: Slice<'_, f32>,
    half: Half,
    addends: Slice<'_, f32>,
) -> Result<Vec<f64>, R::Error> {
    let len = weights.len();
    check::len("addends [N]", addends.len(), len);
    let mut magnitude = Array::<R, u32>::zeroed(runtime, 1)?;
    let arguments = [addends.argument(), magnitude.as_mut().argument(), Size(len)];
    // SAFETY: edkm_largest_magnitude(x, magnitude, len) reaches `len` numbers of x and one of magnitude.
    unsafe { runtime.launch("edkm_largest_magnitude", counting_blocks(len), &arguments) }?;
    let largest = f32::from_bits(magnitude.to_host(runtime)?.first().copied().unwrap_or(0));
    if !largest.is_finite() {
        return Ok(vec![f64::NAN; KEYS]);
    }
    let Some(exponent) = units_exponent(largest, len) else {
        return Ok(vec![0.0; KEYS]);
    };
    let units = f64::from(exponent).exp2();
    let mut sums = Array::<R, i64>::zeroed(runtime, KEYS)?;
    let arguments = [
        weights.argument(),
        half.argument(),
        addends.argument(),
        Double(units),
        sums.as_mut().argument(),
        Size(len),
    ];
    // SAFETY: edkm_sum_by_key(weights, kind, addends, units, sums, len) reaches `len` weights and addends, and the sums of 16-bit keys.
    unsafe { runtime.launch("edkm_sum_by_key", counting_blocks(len), &arguments) }?;
    let sums = sums.to_host(runtime)?;
    Ok(sums.into_iter().map(|sum| sum as f64 / units).collect())
}

/// The largest e with `len` addends of at most `largest` times 2^e below 2^62; none if all are zero.
fn units_exponent(largest: f32, len: usize) -> Option<i32> {
    if largest == 0.0 {
        return None;
    }
    // `largest` is below 2^(its exponent + 1), `len` at most 2^(bits)
    let bits = usize::BITS - len.leading_zeros();
    let exponent = f64::from(largest).log2().floor() as i32 + 1;
    Some(62 - bits as i32 - exponent)
}

/// `out[i] = table[key of weights[i]]`. `table [KEYS]` on the host.
///
/// # Errors
/// The runtime's.
pub fn look_up<R: Runtime>(
    runtime: &R,
    weights: Slice<'_, f32>,
    half: Half,
    table: &[f32],
    mut out: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    check::len("table [KEYS]", table.len(), KEYS);
    check::len("out [N]", out.len(), weights.len());
    let table = Array::from_host(runtime, table)?;
    let arguments = [
        weights.argument(),
        half.argument(),
        table.as_slice().argument(),
        out.argument(),
        Size(out.len()),
    ];
    // SAFETY: edkm_look_up(weights, kind, table, out, len) reaches `len` weights and numbers of out, and the entries of 16-bit keys.
    unsafe { runtime.launch("edkm_look_up", crate::runtime::blocks_for(out.len()), &arguments) }
}

/// `total[i] += grad[i] slope + shift` with `[slope, shift] = table[key of weights[i]]`. `table [KEYS]` on the host.
///
/// # Errors
/// The runtime's.
pub fn multiply_add<R: Runtime>(
    runtime: &R,
    weights: Slice<'_, f32>,
    half: Half,
    table: &[[f32; 2]],
    grad: Slice<'_, f32>,
    mut total: SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    check::len("table [KEYS]", table.len(), KEYS);
    check::len("grad [N]", grad.len(), weights.len());
    check::len("total [N]", total.len(), weights.len());
    let table = Array::from_host(runtime, table)?;
    let arguments = [
        weights.argument(),
        half.argument(),
        table.as_slice().argument(),
        grad.argument(),
        total.argument(),
        Size(total.len()),
    ];
    // SAFETY: edkm_multiply_add(weights, kind, table, grad, total, len) reaches `len` numbers of each, and the pairs of 16-bit keys.
    unsafe { runtime.launch("edkm_multiply_add", crate::runtime::blocks_for(total.len()), &arguments) }
}
