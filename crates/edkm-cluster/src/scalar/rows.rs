//! The distinct rows of the attention map of one palette.
//!
//! Axis: U distinct values in ascending order, packed in lanes; the padding repeats the last value, with a count of zero.

use crate::half_key::is_zero;
use crate::lanes::Lanes;
use crate::scalar::histogram::Distinct;
use crate::{HalfKind, KeepZero};

/// Values and how many weights have each.
pub(crate) struct Rows {
    /// Number of distinct values, without padding.
    pub(crate) len: usize,
    pub(crate) values_u: Vec<Lanes>,
    /// Zero for values that take no part.
    pub(crate) counts_u: Vec<Lanes>,
    /// Weights that take part.
    pub(crate) mass: f64,
}

impl Rows {
    pub(crate) fn new(distinct: &Distinct, half: HalfKind, keep_zero: KeepZero) -> Self {
        let counts = distinct.keys_u.iter().zip(&distinct.counts_u);
        let counts: Vec<f64> = counts
            .map(|(&key, &count)| if takes_part(key, keep_zero) { count.into() } else { 0.0 })
            .collect();
        Rows {
            len: distinct.len(),
            values_u: pack_values(&distinct.keys_u, half),
            mass: counts.iter().sum(),
            counts_u: Lanes::pack(counts.into_iter(), 0.0),
        }
    }

    /// The sums of a histogram in the same order; zero for values that take no part.
    pub(crate) fn sums(distinct: &Distinct, keep_zero: KeepZero) -> Vec<Lanes> {
        let sums = distinct.keys_u.iter().zip(&distinct.sums_u);
        Lanes::pack(
            sums.map(|(&key, &sum)| if takes_part(key, keep_zero) { sum } else { 0.0 }),
            0.0,
        )
    }
}

/// The values of ascending keys, packed.
pub(crate) fn pack_values(keys_u: &[u16], half: HalfKind) -> Vec<Lanes> {
    let last = keys_u.last().map_or(0.0, |&key| half.value(key));
    Lanes::pack(keys_u.iter().map(|&key| half.value(key)), last)
}

/// Whether weights with this key are clustered.
pub(crate) fn takes_part(key: u16, keep_zero: KeepZero) -> bool {
    match keep_zero {
        KeepZero::Free => true,
        KeepZero::Exact => !is_zero(key),
    }
}
