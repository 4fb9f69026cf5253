//! A hash by which a weight that has not changed is recognised.

use rayon::prelude::*;
use xxhash_rust::xxh3::{xxh3_128, Xxh3};

use crate::half_key::BLOCK;
use crate::scalar::histogram::Distinct;
use crate::{MatrixShape, Spec};

/// Weights hashed at once; the hashes of the parts are hashed in order.
const PART: usize = 256 * BLOCK;

/// For scalars of the distinct values and their counts in each palette, for vectors of the rounded weights in order; with shape and settings.
pub(crate) fn fingerprint(weights: &[f32], shape: MatrixShape, spec: &Spec, palettes: &[Distinct]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(format!("{shape:?} {spec:?}").as_bytes());
    let parts: Vec<u128> = if spec.dim() > 1 {
        weights
            .par_chunks(PART)
            .map(|weights| of_weights(weights, spec))
            .collect()
    } else {
        palettes.par_iter().map(of_distinct).collect()
    };
    for part in parts {
        hash.update(&part.to_le_bytes());
    }
    hash.digest128()
}

fn of_distinct(distinct: &Distinct) -> u128 {
    let keys = distinct.keys_u.iter().flat_map(|key| key.to_le_bytes());
    let counts = distinct.counts_u.iter().flat_map(|count| count.to_le_bytes());
    xxh3_128(&keys.chain(counts).collect::<Vec<u8>>())
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
