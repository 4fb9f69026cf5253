//! Starting centroids from weights alone.

mod exact;
mod plus_plus;
mod scalar;

use crate::bench::SplitMix64;
use crate::init::exact::exact;
use crate::init::plus_plus::Sample;
use crate::scalar::histogram::Distinct;
use crate::scalar::rows::takes_part;
use crate::{KeepZero, Spec};

/// How starting centroids are found where weights count alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Initialization {
    /// The smallest squared error: exact k-means for scalars, for vectors as [`PlusPlus`](Self::PlusPlus).
    #[default]
    KMeans,
    /// k-means++ (Arthur and Vassilvitskii 2007) and Lloyd's algorithm, drawn with the seed of the settings.
    PlusPlus,
    /// The medians of as many parts of equal numbers of weights. For scalars alone.
    Quantile,
}

/// What starting centroids follow from besides the weights.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing: weights count alike.
    Alike(Initialization),
    /// The importance of each weight, for the k-means.
    Weighted(&'a [f32]),
}

/// Centroids of a scalar palette: the k-means of its distinct values with the given masses, in one of the ways to find it.
pub(crate) fn scalar_start(
    distinct: &Distinct,
    masses_u: &[f64],
    spec: &Spec,
    initialization: Initialization,
) -> Vec<f64> {
    let find = |values: &[f64], masses: &[f64], clusters| match initialization {
        Initialization::KMeans => exact(values, masses, clusters),
        Initialization::PlusPlus => scalar::plus_plus(values, masses, clusters, &mut SplitMix64(spec.seed)),
        Initialization::Quantile => scalar::quantiles(values, masses, clusters),
    };
    let taking_part = || {
        distinct
            .keys_u
            .iter()
            .zip(masses_u)
            .filter(|(&key, _)| takes_part(key, spec.keep_zero))
    };
    let values: Vec<f64> = taking_part().map(|(&key, _)| spec.half.value(key)).collect();
    let masses: Vec<f64> = taking_part().map(|(_, &mass)| mass).collect();
    match spec.keep_zero {
        KeepZero::Free => find(&values, &masses, spec.clusters()),
        KeepZero::Exact if values.is_empty() => vec![0.0; spec.clusters()],
        KeepZero::Exact => {
            let mut centroids = find(&values, &masses, spec.clusters() - 1);
            centroids.insert(centroids.partition_point(|&c| c < 0.0), 0.0);
            centroids
        }
    }
}

/// Centroids of a vector palette, `[K, d]`: k-means++ and Lloyd's algorithm on a sample.
///
/// `importance`: of each weight.
pub(crate) fn vector_start<const D: usize>(weights: &[f32], importance: Option<&[f32]>, spec: &Spec) -> Vec<f64> {
    let mut random = SplitMix64(spec.seed);
    let vector = |i: usize| -> [f32; D] { std::array::from_fn(|j| spec.half.rounded(weights[i * D + j]) as f32) };
    let mass = |i: usize| -> f64 {
        importance.map_or(1.0, |importance| {
            importance[i * D..(i + 1) * D].iter().map(|&x| f64::from(x)).sum()
        })
    };
    let takes_part = |v: &[f32; D]| spec.keep_zero == KeepZero::Free || v.iter().any(|&w| w != 0.0);
    let positions = Sample::<D>::positions(weights.len() / D, &mut random);
    let (vectors_md, mut masses_m): (Vec<_>, Vec<_>) = positions
        .into_iter()
        .map(|i| (vector(i), mass(i)))
        .filter(|(v, _)| takes_part(v))
        .unzip();
    if masses_m.iter().all(|&mass| mass == 0.0) {
        masses_m.fill(1.0);
    }
    let sample = Sample { vectors_md, masses_m };
    let centroids_kd = match spec.keep_zero {
        KeepZero::Free => sample.kmeans(spec.clusters(), spec.half, &mut random),
        KeepZero::Exact if sample.vectors_md.is_empty() => vec![[0.0; D]; spec.clusters()],
        KeepZero::Exact => {
            let mut centroids_kd = vec![[0.0; D]];
            centroids_kd.extend(sample.kmeans(spec.clusters() - 1, spec.half, &mut random));
            centroids_kd
        }
    };
    centroids_kd.into_flattened()
}
