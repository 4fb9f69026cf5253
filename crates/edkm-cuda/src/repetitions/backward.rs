//! The gradient through the repetitions.
#![allow(unsafe_code)]

use edkm_cluster::elsewhere::PaletteWay;

use super::record::records_of;
use super::{counted, parts, Kept, Settings, PARTS};
use crate::clustering::{multiply_add_in, sum_into, Palettes, KEYS};
use crate::runtime::blocks_of_grid;
use crate::Argument::Size;
use crate::{check, Array, Runtime, Slice, SliceMut};

/// Adds dL/dW to `total [P, N]`, given dL/dW~ `grad [P, N]`. Scratch: as [`Settings::at_once`] says.
///
/// # Errors
/// The runtime's.
///
/// # Panics
/// As [`clustered`](super::clustered), and on other lengths.
pub fn backward_accumulate<R: Runtime>(
    runtime: &R,
    weights: Palettes<'_>,
    settings: Settings,
    ways: &[PaletteWay],
    kept: Option<&Kept<R>>,
    grad: Slice<'_, f32>,
    total: &mut SliceMut<'_, f32>,
) -> Result<(), R::Error> {
    settings.check_ways(ways, weights.palettes());
    if let Some(kept) = kept {
        kept.check_for(weights, settings);
    }
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
    let blocks = blocks_of_grid("gradient of repetitions [P, parts]", [palettes, PARTS])?;
    let keys = palettes * KEYS;
    // the pairs stay zero where a key does not take part
    let lens = [keys, keys, palettes.div_ceil(2), palettes.div_ceil(2)];
    let mut memory = Array::<R, u64>::zeroed(runtime, lens.iter().sum())?;
    let [pairs, sums, magnitudes, tickets] = memory.as_mut().split(lens);
    let (mut sums, mut magnitudes) = (sums.cast::<i64>(), magnitudes.cast::<u32>());
    // what is copied from the host waits for nothing yet
    let (made_counts, made_records);
    let (counts, records) = match kept {
        Some(kept) => (kept.counts(), kept.records()),
        None => {
            made_records = records_of(runtime, settings, ways)?;
            let mut magnitudes = Array::zeroed(runtime, palettes)?;
            made_counts = counted(runtime, part, &mut magnitudes.as_mut())?;
            (made_counts.as_slice(), made_records.as_slice())
        }
    };
    let bits = sum_into(runtime, part, grad, &mut sums, &mut magnitudes.part(0, palettes))?;
    let lens = [keys, palettes * clusters, blocks as usize * clusters];
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
    unsafe { runtime.launch("edkm_clustered_backward", blocks, &common) }?;
    let most = ways.iter().map(|way| way.log_mass_tk.len() / clusters).max();
    for t in (0..most.unwrap_or(0)).rev() {
        let mut arguments = common.clone();
        arguments.splice(shared..shared, [Size(t), shifts.argument()]);
        // SAFETY: as above, with edkm_repetition_backward(.., T, t, shifts, tables, ..), which also reaches the shifts of 16-bit keys of each palette.
        unsafe { runtime.launch("edkm_repetition_backward", blocks, &arguments) }?;
    }
    Ok(GradientTables { memory, len: keys })
}
