//! The repetitions, and what they find.
#![allow(unsafe_code)]

use std::sync::{Mutex, PoisonError};

use edkm_cluster::elsewhere::PaletteWay;

use super::kept::Places;
use super::record::{head, head_as_arguments, records_of, way_of};
use super::{counted, parts, Found, Kept, Settings, Starts, CLUSTERS_AT_ONCE, PARTS};
use crate::clustering::{count_into, look_up_in, Palettes, KEYS};
use crate::runtime::{blocks_of_grid, THREADS};
use crate::Argument::Size;
use crate::{check, Array, Runtime, Slice, SliceMut};

/// Blocks that share the keys of a palette where there is nothing to add up: as in `cuda/repetitions.cu`.
const TABLE_PARTS: usize = KEYS / THREADS;

/// Repeats assignment and update of every palette. Waits for the device. Scratch: as [`Settings::at_once`] says.
///
/// With the ways comes what is worth keeping on the device (see [`Kept`]): for these ways alone.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// On settings with no clusters or too many, and starts of other palettes.
pub fn forward<R: Runtime>(
    runtime: &R,
    weights: Palettes<'_>,
    settings: Settings,
    starts: &Starts,
) -> Result<(Found, Option<Kept<R>>), R::Error> {
    settings.check();
    let (clusters, palettes) = (settings.clusters, weights.palettes());
    check::len("known starts [P]", starts.known.len(), palettes);
    check::len("other starts [P]", starts.other.len(), palettes);
    let one_part = palettes <= settings.most_at_once();
    // few numbers come with the launch; a copy from the host waits for what runs, so it is made before anything does
    let heads = match one_part && palettes == 1 && clusters <= CLUSTERS_AT_ONCE {
        true => None,
        false => Some(heads(runtime, settings, starts)?),
    };
    check::product("records of repetitions [P, numbers]", [palettes, settings.record_len()])?;
    let places = Places::new(palettes, settings);
    let lens = places.lens();
    let mut memory = Array::<R, u64>::zeroed(runtime, lens.iter().sum())?;
    let [mut digest, magnitudes, records, tickets, counts] = memory.as_mut().split(lens);
    let (mut magnitudes, mut records) = (magnitudes.cast::<u32>(), records.cast::<f64>());
    let (mut tickets, mut counts) = (tickets.cast::<u32>(), counts.cast::<u32>());
    for (first, part) in parts(weights, settings) {
        let mut magnitudes = magnitudes.part(first, part.palettes());
        let made;
        let counts = if one_part {
            count_into(runtime, part, &mut counts, &mut magnitudes)?;
            counts.as_slice()
        } else {
            made = counted(runtime, part, &mut magnitudes)?;
            made.as_slice()
        };
        if heads.is_some() {
            add_digest(runtime, counts, first, &mut digest)?;
        }
    }
    match heads {
        Some(heads) => choose_start(runtime, settings, starts, digest, heads.as_slice(), &mut records)?,
        None => begin_palette(
            runtime,
            settings,
            starts,
            counts.as_slice(),
            digest,
            &mut records,
            &mut tickets,
        )?,
    }

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
    let found = memory.as_slice().part(0, places.records.end);
    let (on_host, made) = if one_part && is_worth_keeping(weights) {
        let records = found.part(places.records.start, places.records.len()).cast();
        // what the next op asks for comes about while the centroids go to the host
        found.to_host_before(runtime, || {
            let tables = clustered_tables(runtime, weights, settings, records)?;
            let mut clustered = Array::unset(runtime, weights.len())?;
            look_up_in(runtime, weights, tables.as_slice(), clustered.as_mut())?;
            Ok(Some((tables, clustered)))
        })?
    } else {
        (found.to_host(runtime)?, None)
    };
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
        palettes,
        weights: weights.len(),
        settings,
        memory,
        places,
        tables,
        clustered: Mutex::new(Some(clustered)),
    });
    Ok((found, kept))
}

/// Whether counts and tables are kept for backward, which waits for the host twice without them: of a single palette where they are half of its weights' bytes at the
/// most, of several where they are an eighth, since there are many.
fn is_worth_keeping(weights: Palettes<'_>) -> bool {
    weights.weights_per_palette() >= if weights.palettes() == 1 { 1 << 18 } else { 1 << 20 }
}

/// Both starts of every palette, `[P, 2, HEAD + K]`.
fn heads<R: Runtime>(runtime: &R, settings: Settings, starts: &Starts) -> Result<Array<R, f64>, R::Error> {
    let both = starts.known.iter().zip(&starts.other);
    let heads: Vec<f64> = both
        .flat_map(|(known, other)| head(known, settings).chain(head(other, settings)))
        .collect();
    Array::from_host(runtime, &heads)
}

/// Begins the records of all palettes.
fn choose_start<R: Runtime>(
    runtime: &R,
    settings: Settings,
    starts: &Starts,
    mut digest: SliceMut<'_, u64>,
    heads: Slice<'_, f64>,
    records: &mut SliceMut<'_, f64>,
) -> Result<(), R::Error> {
    let Settings {
        clusters, repetitions, ..
    } = settings;
    let [a, b] = starts.digest;
    let arguments = [
        digest.argument(),
        Size(a as usize),
        Size(b as usize),
        heads.argument(),
        records.argument(),
        Size(clusters),
        Size(repetitions),
    ];
    let blocks = blocks_of_grid("repetitions [P]", [starts.known.len()])?;
    // SAFETY: edkm_choose_start(digest, expected a, expected b, starts, records, K, T), a block a palette, reaches two numbers of the digest, two starts
    // and a record of each palette.
    unsafe { runtime.launch("edkm_choose_start", blocks, &arguments) }
}

/// Takes the digest of a matrix with one palette and few clusters, and begins its record.
fn begin_palette<R: Runtime>(
    runtime: &R,
    settings: Settings,
    starts: &Starts,
    counts: Slice<'_, u32>,
    mut digest: SliceMut<'_, u64>,
    records: &mut SliceMut<'_, f64>,
    tickets: &mut SliceMut<'_, u32>,
) -> Result<(), R::Error> {
    let [a, b] = starts.digest;
    let mut arguments = vec![
        counts.argument(),
        digest.argument(),
        tickets.argument(),
        Size(a as usize),
        Size(b as usize),
        records.argument(),
        Size(settings.clusters),
    ];
    for start in [&starts.known[0], &starts.other[0]] {
        arguments.extend(head_as_arguments(start, settings));
    }
    // SAFETY: edkm_begin_palette(counts, digest, tickets, expected a, expected b, record, K, two starts of 3 numbers and 8 centroids), PARTS blocks, reaches
    // the counters of 16-bit keys, two numbers of the digest, a ticket, and the head and the first K centroids of a record.
    unsafe { runtime.launch("edkm_begin_palette", PARTS as u32, &arguments) }
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
    let blocks = blocks_of_grid("digest of counts [P, parts]", [palettes, PARTS])?;
    // SAFETY: edkm_digest_counts(counts, first palette, digest) reaches the counters of 16-bit keys of each palette of the grid, and two numbers.
    unsafe { runtime.launch("edkm_digest_counts", blocks, &arguments) }
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
    let blocks = blocks_of_grid("repetitions [P, parts]", [part.palettes(), PARTS])?;
    let mut partials = Array::<R, f64>::unset(runtime, blocks as usize * 2 * clusters)?;
    let common = [
        counts.argument(),
        part.half().argument(),
        settings.keep_zero_argument(),
        records.argument(),
        Size(clusters),
        Size(repetitions),
    ];
    let scratch = [partials.as_mut().argument(), tickets.argument()];
    // SAFETY: edkm_set_temperature(counts, kind, keep zero, records, K, T, partials, tickets), PARTS blocks a palette, reaches the counters of 16-bit keys,
    // the head and the first K centroids of a record and a ticket of each palette, and a number a cluster of each block.
    unsafe { runtime.launch("edkm_set_temperature", blocks, &[&common[..], &scratch].concat()) }?;
    for t in 0..repetitions {
        let of_repetition = [Size(t), Size(part.weights_per_palette())];
        let arguments = [&common[..], &of_repetition, &scratch].concat();
        // SAFETY: edkm_move_centroids(counts, kind, keep zero, records, K, T, t, len, partials, tickets), PARTS blocks a palette, reaches the counters of
        // 16-bit keys, a record and a ticket of each palette, and two numbers a cluster of each block.
        unsafe { runtime.launch("edkm_move_centroids", blocks, &arguments) }?;
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
    let blocks = blocks_of_grid("tables of repetitions [P, parts]", [palettes, TABLE_PARTS])?;
    // SAFETY: edkm_clustered_table(kind, keep zero, records, K, T, tables), TABLE_PARTS blocks a palette, reaches a record and the entries of 16-bit keys
    // of each palette.
    unsafe { runtime.launch("edkm_clustered_table", blocks, &arguments) }?;
    Ok(tables)
}

/// The clustered weights W~. Scratch: as [`Settings::at_once`] says, none with what was kept.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// On ways that do not belong to the weights and the settings, and on what was kept of others.
pub fn clustered<R: Runtime>(
    runtime: &R,
    weights: Palettes<'_>,
    settings: Settings,
    ways: &[PaletteWay],
    kept: Option<&Kept<R>>,
) -> Result<Array<R, f32>, R::Error> {
    settings.check_ways(ways, weights.palettes());
    if let Some(kept) = kept {
        kept.check_for(weights, settings);
    }
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
