//! How long clustering takes beside the time to copy memory.
//!
//! Clustering at the size of real layers is a few passes over a few matrices, so the floor is the time that this machine takes to copy
//! them. It is measured in the same run, with the same threads: ratios to it compare where seconds do not.

use std::time::Instant;

use rayon::prelude::*;

use crate::{ClusterError, MatrixShape, Prepared, Spec};

/// What [`run`] measured: medians over its repeats, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClusterBench {
    /// [`Prepared::new`], [`Prepared::iterate`] and [`Trajectory::clustered_into`](crate::Trajectory::clustered_into).
    pub forward_seconds: f64,
    /// [`Trajectory::backward`](crate::Trajectory::backward).
    pub backward_seconds: f64,
    /// Copying the weights, the clustered weights and both gradients once, on the same threads.
    pub memcpy_seconds: f64,
    /// [`Prepared::distinct_values`].
    pub distinct_values: usize,
    /// [`Trajectory::saved_bytes`](crate::Trajectory::saved_bytes).
    pub saved_bytes: usize,
}

impl ClusterBench {
    /// Forward and backward over the time to copy.
    pub fn ratio(&self) -> f64 {
        (self.forward_seconds + self.backward_seconds) / self.memcpy_seconds
    }
}

/// Clusters a matrix of normally distributed weights (deviation 0.02, seeded) and takes a normally distributed gradient back, `repeats` times
/// (at least once) after one round that is not counted.
///
/// Memory: eight matrices, half of them to copy into.
///
/// # Errors
/// Those of [`Prepared::new`].
pub fn run(rows: usize, cols: usize, spec: &Spec, repeats: usize) -> Result<ClusterBench, ClusterError> {
    let shape = MatrixShape::new(rows, cols);
    spec.check_for(shape)?;
    let weights = normal(shape.len(), 1, 0.02);
    let upstream = normal(shape.len(), 2, 1.0);
    let mut clustered = vec![0.0; shape.len()];
    let mut grad = vec![0.0; shape.len()];
    let mut copies = vec![vec![0.0f32; shape.len()]; 4];
    let prepared = Prepared::new(&weights, shape, spec)?;
    let start = prepared.initial()?;
    let distinct_values = prepared.distinct_values();
    let mut saved_bytes = 0;

    let (mut forward, mut backward, mut memcpy) = (Vec::new(), Vec::new(), Vec::new());
    for repeat in 0..=repeats.max(1) {
        let time = Instant::now();
        for (from, to) in [&weights, &clustered, &upstream, &grad].into_iter().zip(&mut copies) {
            copy(from, to);
        }
        let memcpy_time = time.elapsed().as_secs_f64();

        let time = Instant::now();
        let trajectory = Prepared::new(&weights, shape, spec)?.iterate(&start)?;
        trajectory.clustered_into(&weights, shape, spec, &mut clustered)?;
        let forward_time = time.elapsed().as_secs_f64();

        copy(&upstream, &mut grad);
        let time = Instant::now();
        trajectory.backward(&weights, shape, spec, &mut grad)?;
        let backward_time = time.elapsed().as_secs_f64();

        saved_bytes = trajectory.saved_bytes();
        if repeat > 0 {
            forward.push(forward_time);
            backward.push(backward_time);
            memcpy.push(memcpy_time);
        }
    }
    Ok(ClusterBench {
        forward_seconds: median(forward),
        backward_seconds: median(backward),
        memcpy_seconds: median(memcpy),
        distinct_values,
        saved_bytes,
    })
}

fn copy(from: &[f32], to: &mut [f32]) {
    const PART: usize = 1 << 18;
    to.par_chunks_mut(PART)
        .zip(from.par_chunks(PART))
        .for_each(|(to, from)| to.copy_from_slice(from));
}

/// The middle of the times, the upper one of two; not a number if there is none.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Normally distributed numbers of mean 0: Box and Muller's transform of a splitmix64 stream for each part.
pub fn normal(len: usize, seed: u64, deviation: f32) -> Vec<f32> {
    const PART: usize = 1 << 16;
    let mut numbers = vec![0.0; len];
    numbers.par_chunks_mut(PART).enumerate().for_each(|(part, numbers)| {
        let mut random = SplitMix64(seed << 32 | part as u64);
        for pair in numbers.chunks_mut(2) {
            let radius = (-2.0 * random.uniform().ln()).sqrt() * f64::from(deviation);
            let (sine, cosine) = (std::f64::consts::TAU * random.uniform()).sin_cos();
            for (number, part) in pair.iter_mut().zip([cosine, sine]) {
                *number = (radius * part) as f32;
            }
        }
    });
    numbers
}

/// Steele, Lea and Flood's generator (2014).
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Above 0, below 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_something() {
        let bench = run(64, 100, &Spec::default(), 3).unwrap();
        assert!(bench.forward_seconds > 0.0 && bench.backward_seconds > 0.0 && bench.memcpy_seconds > 0.0);
        assert!(bench.ratio().is_finite());
        assert!(1000 < bench.distinct_values && bench.distinct_values < 6400);
        assert!(run(0, 100, &Spec::default(), 3).is_err());
    }

    #[test]
    fn numbers_are_normal() {
        let numbers = normal(100_001, 7, 2.0);
        let moment = |p: i32| numbers.iter().map(|&x| f64::from(x).powi(p)).sum::<f64>() / numbers.len() as f64;
        // Five standard errors of each moment.
        assert!(moment(1).abs() < 5.0 * 2.0 / 316.0);
        assert!((moment(2) - 4.0).abs() < 5.0 * 4.0 * 1.42 / 316.0);
    }
}
