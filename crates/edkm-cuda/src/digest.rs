//! A hash of the bits of numbers that stay on the device.
#![allow(unsafe_code)]

use crate::runtime::THREADS;
use crate::Argument::Size;
use crate::{Array, Runtime, Slice};

/// Blocks at most: each adds to the result once.
const MOST_BLOCKS: usize = 1024;

/// A hash of 128 bits of the numbers' bits and of where each stands. Waits for the device; 16 bytes go to the host. Numbers that were not made to
/// deceive it have the same hash by a chance of about 2^-128; it is no hash of `edkm-store`.
///
/// # Errors
/// The runtime's.
pub fn digest<R: Runtime>(runtime: &R, x: Slice<'_, f32>) -> Result<u128, R::Error> {
    let blocks = x.len().div_ceil(4 * THREADS).clamp(1, MOST_BLOCKS);
    let mut digest = Array::<R, u64>::zeroed(runtime, 2)?;
    let arguments = [x.argument(), digest.as_mut().argument(), Size(x.len())];
    // SAFETY: edkm_digest(x, digest, len) reaches `len` numbers of x and two of digest.
    unsafe { runtime.launch("edkm_digest", blocks as u32, &arguments) }?;
    let halves = digest.to_host(runtime)?;
    Ok(halves.iter().rev().fold(0, |all, &half| all << 64 | u128::from(half)))
}
