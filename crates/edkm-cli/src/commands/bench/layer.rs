//! `edkm bench layer`

use std::process::{Command, Stdio};

use dfdx::prelude::*;
use edkm_cluster::Bits;
use edkm_train::bench::layer::{LayerBench, LayerMemory, LayerSettings, Variant};
use edkm_train::memory::resident_bytes;
use serde::Serialize;

use crate::args::{BenchLayerArgs, LayerSizeArgs};
use crate::commands::Failure;
use crate::console::{bytes, Output};

#[derive(Serialize)]
struct Row {
    name: &'static str,
    seconds: f64,
    gflops: f64,
    peak_resident_bytes: Option<u64>,
    kept_bytes: Option<u64>,
    store_bytes: u64,
}

#[derive(Serialize)]
struct Figures {
    rows: Vec<Row>,
    clustered_over_unclustered: f64,
    clustered_over_stock: f64,
}

pub fn run(args: BenchLayerArgs) -> Result<(), Failure> {
    let settings = settings(&args.sizes)?;
    let resident_before = resident_bytes();
    let device = Cpu::default();
    // freed memory goes back: what is measured is what is held
    device.disable_cache();
    if let Some(variant) = args.memory_of {
        let memory = LayerBench::new(settings, &device)?.memory(variant.into(), resident_before)?;
        Output::Json.json(&memory)?;
        return Ok(());
    }
    let memory = Variant::ALL
        .into_iter()
        .map(|variant| memory_in_a_process_of_its_own(&args, variant))
        .collect::<Result<Vec<_>, _>>()?;
    let bench = LayerBench::new(settings, &device)?;
    let seconds = bench.seconds(args.repeats)?;
    let rows: Vec<Row> = Variant::ALL
        .into_iter()
        .zip(memory)
        .zip(seconds)
        .map(|((variant, memory), seconds)| Row {
            name: variant.name(),
            seconds,
            gflops: bench.flop() / seconds * 1e-9,
            peak_resident_bytes: memory.peak_resident_bytes,
            kept_bytes: memory.kept_bytes,
            store_bytes: memory.store_bytes,
        })
        .collect();
    let [stock, unclustered, clustered, _] = seconds;
    let figures = Figures {
        rows,
        clustered_over_unclustered: clustered / unclustered,
        clustered_over_stock: clustered / stock,
    };
    show(Output::new(args.json), &args, &figures);
    Output::new(args.json).json(&figures)?;
    Ok(())
}

/// For glibc's allocator: freed memory goes back to the system at once.
pub(super) const FREED_MEMORY_GOES_BACK: [(&str, &str); 2] =
    [("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_TRIM_THRESHOLD_", "0")];

pub(super) fn settings(sizes: &LayerSizeArgs) -> Result<LayerSettings, Failure> {
    Ok(LayerSettings {
        hidden: sizes.hidden,
        intermediate: sizes.intermediate,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads.unwrap_or(sizes.heads),
        sequence: sizes.seq,
        batch: sizes.batch,
        bits: Bits::new(sizes.bits)?,
    })
}

/// The sizes as arguments again, for a process of its own.
pub(super) fn size_arguments(sizes: &LayerSizeArgs) -> Vec<String> {
    [
        ("--hidden", sizes.hidden),
        ("--intermediate", sizes.intermediate),
        ("--heads", sizes.heads),
        ("--kv-heads", sizes.kv_heads.unwrap_or(sizes.heads)),
        ("--seq", sizes.seq),
        ("--batch", sizes.batch),
        ("--bits", sizes.bits.into()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value.to_string()])
    .collect()
}

/// Memory is measured in a process that runs one variant alone, with an allocator that gives freed memory back at once. (Not the times:
/// to ask the system for fresh pages over and over takes time.)
fn memory_in_a_process_of_its_own(args: &BenchLayerArgs, variant: Variant) -> Result<LayerMemory, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "layer", "--memory-of", variant.name()]);
    command.args(size_arguments(&args.sizes));
    let output = command.envs(FREED_MEMORY_GOES_BACK).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("measuring the memory of {} failed: {}", variant.name(), output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn show(output: Output, args: &BenchLayerArgs, figures: &Figures) {
    let sizes = &args.sizes;
    output.line(format!(
        "decoder layer {} / {}, {} heads, {} x {} tokens, {} bits, forward and backward, medians of {}",
        sizes.hidden, sizes.intermediate, sizes.heads, sizes.batch, sizes.seq, sizes.bits, args.repeats
    ));
    output.line(format!(
        "  {:14}{:>10}{:>10}{:>16}{:>18}",
        "", "seconds", "GFLOP/s", "peak resident", "kept for backward"
    ));
    let or_unknown = |count: Option<u64>| count.map_or("unknown".to_owned(), bytes);
    for row in &figures.rows {
        output.line(format!(
            "  {:14}{:>10.3}{:>10.1}{:>16}{:>18}",
            row.name,
            row.seconds,
            row.gflops,
            or_unknown(row.peak_resident_bytes),
            or_unknown(row.kept_bytes)
        ));
    }
    output.line("  (peak beyond weights and their gradients; both measured in a process for each row)");
    output.line(format!(
        "  clustered over unclustered {:.3}, over stock dfdx {:.3}",
        figures.clustered_over_unclustered, figures.clustered_over_stock
    ));
}
