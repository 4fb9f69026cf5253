//! Rounding to evenly spaced levels.

use edkm_cluster::{MatrixShape, Spec};
use edkm_kernels::lanes::dispatch;
use rayon::prelude::*;

use super::PIECE;

/// Evenly spaced palettes `[groups, 2^bits]` and the index of each weight. Finite weights.
pub(super) fn round_to_nearest(weight: &[f32], shape: MatrixShape, spec: &Spec) -> (Vec<f32>, Vec<u8>) {
    let group = spec.grouping.rows_per_palette(shape).saturating_mul(shape.cols).max(1);
    let last = (spec.bits.clusters() - 1) as f32;
    let mut indices = vec![0; weight.len()];
    let palettes: Vec<Vec<f32>> = weight
        .par_chunks(group)
        .zip(indices.par_chunks_mut(group))
        .map(|(weight, indices)| {
            let (low, high) = weight
                .par_chunks(PIECE)
                .map(range)
                .reduce(|| NOTHING, |a, b| (a.0.min(b.0), a.1.max(b.1)));
            // halves first: the range of two finite numbers may overflow
            let gap = (high / last - low / last).max(f32::MIN_POSITIVE);
            let pieces = weight.par_chunks(PIECE).zip(indices.par_chunks_mut(PIECE));
            pieces.for_each(|(weight, indices)| {
                dispatch(
                    #[inline(always)]
                    || {
                        for (index, w) in indices.iter_mut().zip(weight) {
                            *index = ((w - low) / gap).round().clamp(0.0, last) as u8;
                        }
                    },
                );
            });
            (0..=spec.bits.clusters() - 1)
                .map(|level| low + gap * level as f32)
                .collect()
        })
        .collect();
    (palettes.concat(), indices)
}

/// Moves indices to the nearest entries of palettes `[groups, clusters]` in rising order that were rounded for a file; each group has so many weights.
pub(super) fn to_nearest_entries(weight: &[f32], group: usize, palettes: &[f32], clusters: usize, indices: &mut [u8]) {
    let of_group = weight.par_chunks(group).zip(indices.par_chunks_mut(group));
    of_group
        .zip(palettes.par_chunks(clusters))
        .for_each(|((weight, indices), palette)| {
            for (&w, index) in weight.iter().zip(indices) {
                let distance = |at: usize| (w - palette[at]).abs();
                let mut at = usize::from(*index);
                while at + 1 < clusters && distance(at + 1) < distance(at) {
                    at += 1;
                }
                while at > 0 && distance(at - 1) < distance(at) {
                    at -= 1;
                }
                *index = at as u8;
            }
        });
}

/// The [`range`] of no number.
const NOTHING: (f32, f32) = (f32::INFINITY, f32::NEG_INFINITY);

/// The smallest and the largest number.
fn range(numbers: &[f32]) -> (f32, f32) {
    dispatch(
        #[inline(always)]
        || {
            let (mut low, mut high) = NOTHING;
            for &x in numbers {
                low = low.min(x);
                high = high.max(x);
            }
            (low, high)
        },
    )
}

#[cfg(test)]
mod tests {
    use edkm_cluster::{Bits, Grouping};

    use super::*;

    #[test]
    fn pieces_of_a_group_are_rounded_as_the_whole_group() {
        // three pieces and a rest, with the extremes in different ones
        let shape = MatrixShape::new(400, PIECE / 120);
        let weight: Vec<f32> = (0..shape.len())
            .map(|i| (i as f32 * 0.37).sin() * (1.0 + i as f32 / 1e5))
            .collect();
        for (grouping, rows) in [
            (Grouping::PerTensor, 400),
            (Grouping::PerChannels(150.try_into().unwrap()), 150),
            (Grouping::PerChannels(7.try_into().unwrap()), 7),
        ] {
            let spec = Spec::new(Bits::new(3).unwrap()).with_grouping(grouping);
            let (palettes, indices) = round_to_nearest(&weight, shape, &spec);
            let (mut want_palettes, mut want_indices) = (Vec::new(), Vec::new());
            for group in weight.chunks(rows * shape.cols) {
                let low = group.iter().copied().fold(f32::INFINITY, f32::min);
                let high = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let gap = high / 7.0 - low / 7.0;
                want_palettes.extend((0..8).map(|level| low + gap * level as f32));
                want_indices.extend(group.iter().map(|w| ((w - low) / gap).round().min(7.0) as u8));
            }
            assert_eq!(palettes, want_palettes);
            assert_eq!(indices, want_indices);
        }
    }

    /// In 8 bits an int8 palette has not all of the levels.
    #[test]
    fn indices_are_those_of_the_entries_that_a_file_has() {
        let palette: Vec<f32> = (0..256)
            .map(|i| ((i as f32 - 127.5) / 127.5 * 127.0).round() / 127.0)
            .collect();
        let weight: Vec<f32> = (0..4000).map(|i| (i as f32 * 0.71).sin()).collect();
        let spec = Spec::new(Bits::new(8).unwrap());
        let (_, mut indices) = round_to_nearest(&weight, MatrixShape::new(40, 100), &spec);
        let error = |indices: &[u8]| -> f64 {
            let of = |(&w, &i): (&f32, &u8)| f64::from(w - palette[usize::from(i)]).powi(2);
            weight.iter().zip(indices).map(of).sum()
        };
        let before = error(&indices);
        to_nearest_entries(&weight, 4000, &palette, 256, &mut indices);
        let nearest: f64 = weight
            .iter()
            .map(|w| {
                palette
                    .iter()
                    .map(|p| f64::from(w - p).powi(2))
                    .fold(f64::INFINITY, f64::min)
            })
            .sum();
        assert_eq!(error(&indices), nearest);
        assert!(before > 1.2 * nearest, "{before} {nearest}");
    }
}
