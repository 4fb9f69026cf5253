//! The repetitions of a clustering and their gradient, on the device: what lies between the passes over the weights ([`clustering`](crate::clustering)).
//!
//! Soft assignment of scalars, differentiated through all repetitions (DKM, arXiv 2108.12659, section 3), on the counts and sums of 16-bit keys
//! (uniquification of eDKM, arXiv 2309.00964, section 2.2), in f64 as `edkm-cluster` does it. A matrix is waited for once in the forward pass, to
//! know the centroids on the host, and not at all in the backward pass. Palettes in which a cluster has hardly any weight are left to the host.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use edkm_cluster::elsewhere::{PaletteStart, PaletteWay};

use crate::clustering::{count_into, look_up_in, multiply_add_in, sum_into, Palettes, KEYS};
use crate::runtime::THREADS;
use crate::Argument::Size;
use crate::{check, Array, Runtime, Slice, SliceMut};

/// Blocks that share the keys of a palette: as in `cuda/repetitions.cu`.
const PARTS: usize = 128;

/// Blocks that share the keys of a palette where there is nothing to add up: as in `cuda/repetitions.cu`.
const TABLE_PARTS: usize = KEYS / THREADS;

/// Numbers before the centroids of a record: as in `cuda/repetitions.cu`.
const HEAD: usize = 8;

/// Where a record says how many repetitions were done: likewise.
const HEAD_DONE: usize = 3;

/// Most clusters of a palette.
pub const MOST_CLUSTERS: usize = 256;

/// Palettes whose tables may well be in memory at once: 112 MiB in the backward pass.
pub const AT_ONCE: usize = 64;

/// What all palettes of a matrix have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// K, at most [`MOST_CLUSTERS`].
    pub clusters: usize,
    /// T, at most.
    pub repetitions: usize,
    /// Whether weights of zero take no part and stay zero.
    pub keep_zero: bool,
    /// Palettes whose tables are in memory at once, 256 KiB each in the forward pass, 1.75 MiB in the backward pass: [`AT_ONCE`].
    pub at_once: usize,
}

impl Settings {
    fn record_len(self) -> usize {
        HEAD + (2 * self.repetitions + 1) * self.clusters
    }

    fn keep_zero_argument(self) -> crate::Argument {
        Size(self.keep_zero.into())
    }
}

/// The beginning of a record.
fn head(start: &PaletteStart, settings: Settings) -> impl Iterator<Item = f64> + '_ {
    check::len("centroids [K]", start.centroids.len(), settings.clusters);
    let pinned = start.pinned.map_or(-1.0, |k| k as f64);
    let head: [f64; HEAD] = [start.tau, start.limit, pinned, 0.0, 0.0, 0.0, 0.0, 0.0];
    head.into_iter().chain(start.centroids.iter().copied())
}

/// Two starts of every palette, and which matrix the first is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Starts {
    /// The digest of that matrix.
    pub digest: [u64; 2],
    /// Where it begins, `[P]`.
    pub known: Vec<PaletteStart>,
    /// Where any other one does, `[P]`.
    pub other: Vec<PaletteStart>,
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
    let mut record: Vec<f64> = head(&way.start, settings).collect();
    record[HEAD_DONE] = done as f64;
    record.extend(&way.centroids_tk[clusters..]);
    record.resize(HEAD + (repetitions + 1) * clusters, 0.0);
    record.extend(&way.log_mass_tk);
    record.resize(settings.record_len(), 0.0);
    record
}

fn way_of(record: &[f64], settings: Settings) -> Option<PaletteWay> {
    let Settings {
        clusters, repetitions, ..
    } = settings;
    let (head, numbers) = record.split_at(HEAD);
    let [tau, limit, pinned, done, starved, ..] = *head else {
        return None;
    };
    let done = done as usize;
    if starved != 0.0 || done == 0 {
        return None;
    }
    let (centroids, log_mass) = numbers.split_at((repetitions + 1) * clusters);
    Some(PaletteWay {
        start: PaletteStart {
            tau,
            limit,
            pinned: (pinned >= 0.0).then_some(pinned as usize),
            centroids: centroids[..clusters].to_vec(),
        },
        centroids_tk: centroids[..(done + 1) * clusters].to_vec(),
        log_mass_tk: log_mass[..done * clusters].to_vec(),
    })
}

/// What the forward pass found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What the matrix is recognised by: see [`add_digest`].
    pub digest: [u64; 2],
    /// The largest magnitude of each palette, as the bits of an f32: above those of infinity for NaN.
    pub magnitudes: Vec<u32>,
    /// The ways of all palettes; none if the host is to do it.
    pub ways: Option<Vec<PaletteWay>>,
}

/// What the forward pass of large palettes leaves on the device, so that [`clustered`] and [`backward_accumulate`] need not make it again: counts and
/// tables by key, 512 KiB a palette, and the records. Of a matrix of 64 MiB that is less than a hundredth. And the clustered weights, until they are asked for.
pub struct Kept<R: Runtime> {
    /// Records and counts, among others: see `Places`.
    memory: Array<R, u64>,
    places: Places,
    tables: Array<R, f32>,
    clustered: Mutex<Option<Array<R, f32>>>,
}

impl<R: Runtime> Kept<R> {
    /// Bytes on the device, but for the clustered weights.
    pub fn bytes(&self) -> usize {
        8 * self.memory.as_slice().len() + 4 * self.tables.as_slice().len()
    }

    fn records(&self) -> Slice<'_, f64> {
        let Places { records, .. } = &self.places;
        self.memory.as_slice().part(records.start, records.len()).cast()
    }

    fn counts(&self) -> Slice<'_, u32> {
        let Places { counts, .. } = &self.places;
        self.memory.as_slice().part(counts.start, counts.len()).cast()
    }
}

/// Where what the forward pass makes lies, in 8-byte numbers: what is read back first. One piece of memory, since every piece takes time of its own.
struct Places {
    digest: Range<usize>,
    magnitudes: Range<usize>,
    records: Range<usize>,
    tickets: Range<usize>,
    counts: Range<usize>,
}

impl Places {
    fn new(palettes: usize, palettes_of_part: usize, settings: Settings) -> Self {
        let mut end = 0;
        let mut next = |len| {
            end += len;
            end - len..end
        };
        Places {
            digest: next(2),
            magnitudes: next(palettes.div_ceil(2)),
            records: next(palettes * settings.record_len()),
            tickets: next(palettes_of_part.div_ceil(2)),
            counts: next(palettes_of_part * KEYS / 2),
        }
    }

    fn lens(&self) -> [usize; 5] {
        let Places {
            digest,
            magnitudes,
            records,
            tickets,
            counts,
        } = self;
        [digest, magnitudes, records, tickets, counts].map(Range::len)
    }
}

/// The palettes in parts whose tables are in memory at once: the first of each part, and how many.
fn parts(weights: Palettes<'_>, settings: Settings) -> impl Iterator<Item = (usize, Palettes<'_>)> {
    let (palettes, at_once) = (weights.palettes(), settings.at_once.max(1));
    (0..palettes)
        .step_by(at_once)
        .map(move |first| (first, weights.part(first, at_once.min(palettes - first))))
}

/// Repeats assignment and update of every palette. Waits for the device. Scratch: as [`Settings::at_once`] says.
///
/// With the ways comes what is worth keeping on the device, if it is little beside the weights.
///
/// # Errors
/// The runtime's.
pub fn forward<R: Runtime>(
    runtime: &R,
    weights: Palettes<'_>,
    settings: Settings,
    starts: &Starts,
) -> Result<(Found, Option<Kept<R>>), R::Error> {
    /// Weights of a palette whose tables are worth keeping.
    const WORTH_KEEPING: usize = 1 << 20;
    let Settings {
        clusters, repetitions, ..
    } = settings;
    assert!(
        (1..=MOST_CLUSTERS).contains(&clusters),
        "{clusters} clusters: at most {MOST_CLUSTERS}"
    );
    let palettes = weights.palettes();
    check::len("known starts [P]", starts.known.len(), palettes);
    check::len("other starts [P]", starts.other.len(), palettes);
    // before anything runs: a copy from the host waits for it
    let heads: Vec<f64> = starts
        .known
        .iter()
        .zip(&starts.other)
        .flat_map(|(known, other)| head(known, settings).chain(head(other, settings)))
        .collect();
    let heads = Array::from_host(runtime, &heads)?;

    let one_part = palettes <= settings.at_once;
    let places = Places::new(palettes, palettes.min(settings.at_once), settings);
    let lens = places.lens();
    let mut memory = Array::<R, u64>::zeroed(runtime, lens.iter().sum())?;
    let [mut digest, magnitudes, records, tickets, counts] = memory.as_mut().split(lens);
    let (mut magnitudes, mut records) = (magnitudes.cast::<u32>(), records.cast::<f64>());
    let (mut tickets, mut counts) = (tickets.cast::<u32>(), counts.cast::<u32>());
    for (first, part) in parts(weights, settings) {
        let mut magnitudes = magnitudes.part(first, part.palettes());
        if one_part {
            count_into(runtime, part, &mut counts, &mut magnitudes)?;
            add_digest(runtime, counts.as_slice(), first, &mut digest)?;
        } else {
            let counts = counted(runtime, part, &mut magnitudes)?;
            add_digest(runtime, counts.as_slice(), first, &mut digest)?;
        }
    }
    let [a, b] = starts.digest;
    let arguments = [
        digest.argument(),
        Size(a as usize),
        Size(b as usize),
        heads.as_slice().argument(),
        records.argument(),
        Size(clusters),
        Size(repetitions),
    ];
    // SAFETY: edkm_choose_start(digest, expected a, expected b, starts, records, K, T), a block a palette, reaches two numbers of the digest, two starts
    // and a record of each palette.
    unsafe { runtime.launch("edkm_choose_start", palettes as u32, &arguments) }?;

    for (first, part) in parts(weights, settings) {
        let len = settings.record_len();
        let records = records.part(first * len, part.palettes() * len);
        if one_part {
            move_centroids(runtime, part, settings, counts.as_slice(), records, &mut tickets)?;
        } else {
            let counts = counted(runtime, part, &mut magnitudes.part(first, part.palettes()))?;
            move_centroids(runtime, part, settings, counts.as_slice(), records, &mut tickets)?;
        }
    }
    // what the next op asks for comes about while the host waits
    let made = if one_part && weights.weights_per_palette() >= WORTH_KEEPING {
        let tables = clustered_tables(runtime, weights, settings, records.as_slice())?;
        let mut clustered = Array::unset(runtime, weights.len())?;
        look_up_in(runtime, weights, tables.as_slice(), clustered.as_mut())?;
        Some((tables, clustered))
    } else {
        None
    };
    let on_host = memory.as_slice().part(0, places.records.end).to_host(runtime)?;
    let records: &[f64] = bytemuck::cast_slice(&on_host[places.records.clone()]);
    let found = Found {
        digest: [on_host[0], on_host[1]],
        magnitudes: bytemuck::cast_slice(&on_host[places.magnitudes.clone()])[..palettes].to_vec(),
        ways: records
            .chunks(settings.record_len())
            .map(|record| way_of(record, settings))
            .collect(),
    };
    let kept = made.map(|(tables, clustered)| Kept {
        memory,
        places,
        tables,
        clustered: Mutex::new(Some(clustered)),
    });
    Ok((found, kept))
}

/// The counts of a part, `[P, KEYS]`.
fn counted<R: Runtime>(
    runtime: &R,
    part: Palettes<'_>,
    magnitudes: &mut SliceMut<'_, u32>,
) -> Result<Array<R, u32>, R::Error> {
    let mut counts = Array::zeroed(runtime, part.palettes() * KEYS)?;
    count_into(runtime, part, &mut counts.as_mut(), magnitudes)?;
    Ok(counts)
}

/// Adds what counts `[P, KEYS]` of the palettes from `first` on give to the digest of their matrix, two numbers: `edkm-cluster`'s fingerprint is made of
/// them.
///
/// # Errors
/// The runtime's.
pub fn add_digest<R: Runtime>(
    runtime: &R,
    counts: Slice<'_, u32>,
    first: usize,
    digest: &mut SliceMut<'_, u64>,
) -> Result<(), R::Error> {
    let palettes = counts.len() / KEYS;
    check::len("counts [P, KEYS]", counts.len(), palettes * KEYS);
    check::len("digest", digest.len(), 2);
    let arguments = [counts.argument(), Size(first), digest.argument()];
    // SAFETY: edkm_digest_counts(counts, first palette, digest) reaches the counters of 16-bit keys of each palette of the grid, and two numbers.
    unsafe { runtime.launch("edkm_digest_counts", (palettes * PARTS) as u32, &arguments) }
}

fn move_centroids<R: Runtime>(
    runtime: &R,
    part: Palettes<'_>,
    settings: Settings,
    counts: Slice<'_, u32>,
    mut records: SliceMut<'_, f64>,
    tickets: &mut SliceMut<'_, u32>,
) -> Result<(), R::Error> {
    let Settings {
        clusters, repetitions, ..
    } = settings;
    let blocks = part.palettes() * PARTS;
    let mut partials = Array::<R, f64>::unset(runtime, blocks * 2 * clusters)?;
    for t in 0..repetitions {
        let arguments = [
            counts.argument(),
            part.half().argument(),
            settings.keep_zero_argument(),
            records.argument(),
            Size(clusters),
            Size(repetitions),
            Size(t),
            Size(part.weights_per_palette()),
            partials.as_mut().argument(),
            tickets.argument(),
        ];
        // SAFETY: edkm_move_centroids(counts, kind, keep zero, records, K, T, t, len, partials, tickets), PARTS blocks a palette, reaches the counters of
        // 16-bit keys, a record and a ticket of each palette, and two numbers a cluster of each block.
        unsafe { runtime.launch("edkm_move_centroids", blocks as u32, &arguments) }?;
    }
    Ok(())
}

/// Tables `[P, KEYS]` of the clustered value of each key.
fn clustered_tables<R: Runtime>(
    runtime: &R,
    part: Palettes<'_>,
    settings: Settings,
    records: Slice<'_, f64>,
) -> Result<Array<R, f32>, R::Error> {
    let palettes = part.palettes();
    let mut tables = Array::unset(runtime, palettes * KEYS)?;
    let arguments = [
        part.half().argument(),
        settings.keep_zero_argument(),
        records.argument(),
        Size(settings.clusters),
        Size(settings.repetitions),
        tables.as_mut().argument(),
    ];
    // SAFETY: edkm_clustered_table(kind, keep zero, records, K, T, tables), TABLE_PARTS blocks a palette, reaches a record and the entries of 16-bit keys
    // of each palette.
    unsafe { runtime.launch("edkm_clustered_table", (palettes * TABLE_PARTS) as u32, &arguments) }?;
    Ok(tables)
}

/// The clustered weights W~. Scratch: as [`Settings::at_once`] says, none with what was kept.
///
/// # Errors
/// The runtime's.
pub fn clustered<R: Runtime>(
    runtime: &R,
    weights: Palettes<'_>,
    settings: Settings,
    ways: &[PaletteWay],
    kept: Option<&Kept<R>>,
) -> Result<Array<R, f32>, R::Error> {
    check::len("ways [P]", ways.len(), weights.palettes());
    let made = kept.and_then(|kept| kept.clustered.lock().unwrap_or_else(PoisonError::into_inner).take());
    if let Some(made) = made {
        return Ok(made);
    }
    let mut clustered = Array::unset(runtime, weights.len())?;
    let mut out = clustered.as_mut();
    if let Some(kept) = kept {
        look_up_in(runtime, weights, kept.tables.as_slice(), out)?;
        return Ok(clustered);
    }
    for (first, part) in parts(weights, settings) {
        let palettes = part.palettes();
        let range = weights.weights_of(first, palettes);
        let records = records_of(runtime, settings, &ways[first..first + palettes])?;
        let tables = clustered_tables(runtime, part, settings, records.as_slice())?;
        look_up_in(runtime, part, tables.as_slice(), out.part(range.start, range.len()))?;
    }
    Ok(clustered)
}

/// Adds dL/dW to `total [P, N]`, given dL/dW~ `grad [P, N]`. Scratch: as [`Settings::at_once`] says.
///
/// # Errors
/// The runtime's.
pub fn backward_accumulate<R: Runtime>(
    runtime: &R,
    weights: Palettes<'_>,
    settings: Settings,
    ways: &[PaletteWay],
    kept: Option<&Kept<R>>,
    grad: Slice<'_, f32>,
    total: &mut SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    check::len("ways [P]", ways.len(), weights.palettes());
    check::len("grad", grad.len(), weights.len());
    check::len("total", total.len(), weights.len());
    for (first, part) in parts(weights, settings) {
        let palettes = part.palettes();
        let range = weights.weights_of(first, palettes);
        let ways = &ways[first..first + palettes];
        let grad = grad.part(range.start, range.len());
        let total = total.part(range.start, range.len());
        let tables = gradient_tables(runtime, part, settings, ways, kept, grad)?;
        multiply_add_in(runtime, part, tables.pairs(), grad, total)?;
    }
    Ok(())
}

/// Slope and shift of each key that occurs, `[P, KEYS]`, first in memory that held more.
struct GradientTables<R: Runtime> {
    memory: Array<R, u64>,
    len: usize,
}

impl<R: Runtime> GradientTables<R> {
    fn pairs(&self) -> Slice<'_, [f32; 2]> {
        self.memory.as_slice().part(0, self.len).cast()
    }
}

fn gradient_tables<R: Runtime>(
    runtime: &R,
    part: Palettes<'_>,
    settings: Settings,
    ways: &[PaletteWay],
    kept: Option<&Kept<R>>,
    grad: Slice<'_, f32>,
) -> Result<GradientTables<R>, R::Error> {
    let Settings {
        clusters, repetitions, ..
    } = settings;
    let palettes = part.palettes();
    let (blocks, keys) = (palettes * PARTS, palettes * KEYS);
    // the pairs stay zero where a key does not take part
    let lens = [keys, keys, palettes.div_ceil(2), palettes.div_ceil(2)];
    let mut memory = Array::<R, u64>::zeroed(runtime, lens.iter().sum())?;
    let [pairs, sums, magnitudes, tickets] = memory.as_mut().split(lens);
    let (mut sums, mut magnitudes) = (sums.cast::<i64>(), magnitudes.cast::<u32>());
    let bits = sum_into(runtime, part, grad, &mut sums, &mut magnitudes.part(0, palettes))?;

    let (made_counts, made_records);
    let (counts, records) = match kept {
        Some(kept) => (kept.counts(), kept.records()),
        None => {
            let mut magnitudes = Array::zeroed(runtime, palettes)?;
            made_counts = counted(runtime, part, &mut magnitudes.as_mut())?;
            made_records = records_of(runtime, settings, ways)?;
            (made_counts.as_slice(), made_records.as_slice())
        }
    };
    let lens = [keys, palettes * clusters, blocks * clusters];
    let mut scratch = Array::<R, f64>::unset(runtime, lens.iter().sum())?;
    let [mut shifts, mut grads, mut partials] = scratch.as_mut().split(lens);
    let (mut pairs, mut tickets) = (pairs.cast::<[f32; 2]>(), tickets.cast::<u32>());
    let mut common = vec![
        counts.argument(),
        sums.argument(),
        magnitudes.argument(),
        bits.argument(),
        part.half().argument(),
        settings.keep_zero_argument(),
        records.argument(),
        Size(clusters),
        Size(repetitions),
    ];
    let shared = common.len();
    common.extend([
        pairs.argument(),
        grads.argument(),
        partials.argument(),
        tickets.argument(),
    ]);
    // SAFETY: edkm_clustered_backward(counts, sums, magnitudes, bits, kind, keep zero, records, K, T, tables, grads, partials, tickets), PARTS blocks a
    // palette, reaches the counters, sums and pairs of 16-bit keys, a magnitude, a record, K gradients and a ticket of each palette, and a number a
    // cluster of each block.
    unsafe { runtime.launch("edkm_clustered_backward", blocks as u32, &common) }?;
    let most = ways.iter().map(|way| way.log_mass_tk.len() / clusters).max();
    for t in (0..most.unwrap_or(0)).rev() {
        let mut arguments = common.clone();
        arguments.splice(shared..shared, [Size(t), shifts.argument()]);
        // SAFETY: as above, with edkm_repetition_backward(.., T, t, shifts, tables, ..), which also reaches the shifts of 16-bit keys of each palette.
        unsafe { runtime.launch("edkm_repetition_backward", blocks as u32, &arguments) }?;
    }
    Ok(GradientTables { memory, len: keys })
}

fn records_of<R: Runtime>(runtime: &R, settings: Settings, ways: &[PaletteWay]) -> Result<Array<R, f64>, R::Error> {
    let records: Vec<f64> = ways.iter().flat_map(|way| record_of(way, settings)).collect();
    Array::from_host(runtime, &records)
}
