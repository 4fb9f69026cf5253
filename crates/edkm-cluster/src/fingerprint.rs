//! A hash by which a weight that has not changed is recognised.

use rayon::prelude::*;
use xxhash_rust::xxh3::{xxh3_128, Xxh3};

use crate::half_key::BLOCK;
use crate::scalar::histogram::Distinct;
use crate::{MatrixShape, Spec};

/// Weights hashed at once; the hashes of the parts are hashed in order.
const PART: usize = 256 * BLOCK;

/// For scalars of the distinct values and their counts in each palette, for vectors of the rounded weights in order; with what says which those are.
pub(crate) fn fingerprint(weights: &[f32], shape: MatrixShape, spec: &Spec, palettes: &[Distinct]) -> u128 {
    if spec.dim() == 1 {
        return of_digest(of_settings(shape, spec), digest(palettes));
    }
    let mut hash = Xxh3::new();
    hash.update(settings(shape, spec).as_bytes());
    let parts: Vec<u128> = weights
        .par_chunks(PART)
        .map(|weights| of_weights(weights, spec))
        .collect();
    for part in parts {
        hash.update(&part.to_le_bytes());
    }
    hash.digest128()
}

/// How the matrix is read. What is done with it then (bits, temperature, repetitions) makes no other weight of it.
fn settings(shape: MatrixShape, spec: &Spec) -> String {
    let Spec {
        half,
        grouping,
        vector,
        keep_zero,
        ..
    } = spec;
    format!("{shape:?} {half:?} {grouping:?} {vector:?} {keep_zero:?}")
}

/// A hash of how the matrix is read, which fingerprints of scalars begin with.
pub(crate) fn of_settings(shape: MatrixShape, spec: &Spec) -> u128 {
    xxh3_128(settings(shape, spec).as_bytes())
}

/// The fingerprint of a matrix of scalars with this digest.
pub(crate) fn of_digest(of_settings: u128, [a, b]: [u64; 2]) -> u128 {
    let low = (of_settings as u64).wrapping_add(a);
    let high = ((of_settings >> 64) as u64).wrapping_add(b);
    u128::from(high) << 64 | u128::from(low)
}

/// The digest of the matrix of scalars with this fingerprint.
pub(crate) fn digest_of(of_settings: u128, fingerprint: u128) -> [u64; 2] {
    let low = (fingerprint as u64).wrapping_sub(of_settings as u64);
    let high = ((fingerprint >> 64) as u64).wrapping_sub((of_settings >> 64) as u64);
    [low, high]
}

/// Two sums over the values of all palettes: as sums do not mind an order, other devices can take them where the counts are.
fn digest(palettes: &[Distinct]) -> [u64; 2] {
    let sums = palettes.iter().enumerate().map(|(palette, distinct)| {
        let counts = distinct.keys_u.iter().zip(&distinct.counts_u);
        counts.fold([0u64; 2], |[a, b], (&key, &count)| {
            let of_key = mixed(((palette as u64) << 16 | u64::from(key)).wrapping_add(0x9e37_79b9_7f4a_7c15));
            let count = u64::from(count);
            let b_of_key = mixed(of_key.wrapping_add(count.wrapping_mul(0xd6e8_feb8_6659_fd93)));
            [a.wrapping_add(mixed(of_key ^ count)), b.wrapping_add(b_of_key)]
        })
    });
    sums.fold([0; 2], |[a, b], [x, y]| [a.wrapping_add(x), b.wrapping_add(y)])
}

/// The mixing function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn mixed(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

fn of_weights(weights: &[f32], spec: &Spec) -> u128 {
    let mut hash = Xxh3::new();
    let mut keys = [0u16; BLOCK];
    let mut bytes = [0u8; 2 * BLOCK];
    for weights in weights.chunks(BLOCK) {
        spec.half.round(weights, &mut keys);
        for (bytes, key) in bytes.chunks_exact_mut(2).zip(keys) {
            bytes.copy_from_slice(&key.to_le_bytes());
        }
        hash.update(&bytes[..2 * weights.len()]);
    }
    hash.digest128()
}
