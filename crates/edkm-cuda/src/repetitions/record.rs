//! The record of a palette on the device: where its clustering begins, what it has done, and the way that its centroids went.

use edkm_cluster::elsewhere::{PaletteStart, PaletteWay};
use edkm_cluster::Temperature;

use super::{Settings, CLUSTERS_AT_ONCE};
use crate::Argument::Double;
use crate::{check, Argument, Array, Runtime};

/// Numbers before the centroids of a record: as in `cuda/repetitions.cu`.
const HEAD: usize = 8;

/// Where a record says how many repetitions were done: likewise.
const HEAD_DONE: usize = 3;

impl Settings {
    pub(super) fn record_len(self) -> usize {
        HEAD + (2 * self.repetitions + 1) * self.clusters
    }
}

/// What is set of a head before anything is done: with a temperature below zero it is relative to the gap, as the end of the repetitions always is.
fn set_of_head(start: &PaletteStart) -> [f64; 3] {
    let temperature = match start.temperature {
        Temperature::Absolute(tau) => tau,
        Temperature::Relative(r) => -r,
    };
    [temperature, start.tolerance, pinned_number(start.pinned)]
}

fn pinned_number(pinned: Option<usize>) -> f64 {
    pinned.map_or(-1.0, |k| k as f64)
}

/// The beginning of a record.
pub(super) fn head(start: &PaletteStart, settings: Settings) -> impl Iterator<Item = f64> + '_ {
    check::len("centroids [K]", start.centroids.len(), settings.clusters);
    let mut head = [0.0; HEAD];
    head[..3].copy_from_slice(&set_of_head(start));
    head.into_iter().chain(start.centroids.iter().copied())
}

/// The same as arguments of a kernel, for few clusters.
pub(super) fn head_as_arguments(start: &PaletteStart, settings: Settings) -> impl Iterator<Item = Argument> + '_ {
    check::len("centroids [K]", start.centroids.len(), settings.clusters);
    let beyond = CLUSTERS_AT_ONCE.saturating_sub(settings.clusters);
    let centroids = start.centroids.iter().copied();
    let centroids = centroids.chain(std::iter::repeat_n(0.0, beyond));
    set_of_head(start).into_iter().chain(centroids).map(Double)
}

/// Whether some cluster has hardly any weight in some repetition, of `weights` in all: then the gradient is the host's.
pub fn is_starved(way: &PaletteWay, weights: usize) -> bool {
    // as in cuda/repetitions.cu
    let least = (weights as f64).log2() - 42.0;
    way.log_mass_tk.is_empty() || !way.log_mass_tk.iter().all(|&log_mass| log_mass >= least)
}

fn record_of(way: &PaletteWay, settings: Settings) -> Vec<f64> {
    let Settings {
        clusters, repetitions, ..
    } = settings;
    let done = way.log_mass_tk.len() / clusters;
    let mut record = vec![0.0; HEAD];
    record[0] = way.tau;
    record[2] = pinned_number(way.pinned);
    record[HEAD_DONE] = done as f64;
    record.extend(&way.centroids_tk);
    record.resize(HEAD + (repetitions + 1) * clusters, 0.0);
    record.extend(&way.log_mass_tk);
    record.resize(settings.record_len(), 0.0);
    record
}

pub(super) fn way_of(record: &[f64], settings: Settings) -> Option<PaletteWay> {
    let Settings {
        clusters, repetitions, ..
    } = settings;
    let (head, numbers) = record.split_at(HEAD);
    let [tau, _, pinned, done, starved, ..] = *head else {
        return None;
    };
    let done = done as usize;
    if starved != 0.0 || done == 0 {
        return None;
    }
    let (centroids, log_mass) = numbers.split_at((repetitions + 1) * clusters);
    Some(PaletteWay {
        tau,
        pinned: (pinned >= 0.0).then_some(pinned as usize),
        centroids_tk: centroids[..(done + 1) * clusters].to_vec(),
        log_mass_tk: log_mass[..done * clusters].to_vec(),
    })
}

pub(super) fn records_of<R: Runtime>(
    runtime: &R,
    settings: Settings,
    ways: &[PaletteWay],
) -> Result<Array<R, f64>, R::Error> {
    let records: Vec<f64> = ways.iter().flat_map(|way| record_of(way, settings)).collect();
    Array::from_host(runtime, &records)
}
