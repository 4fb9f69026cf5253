//! `edkm bench layer`

use dfdx::prelude::*;
use edkm_cluster::Bits;
use edkm_train::bench::layer::{LayerBench, LayerMemory, LayerSettings, Variant};
use edkm_train::memory::resident_bytes;
use serde::Serialize;

use super::own_process;
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
        .map(|variant| {
            let what = format!("the memory of {}", variant.name());
            own_process::measure(&["layer", "--memory-of", variant.name()], &args.sizes, &what)
        })
        .collect::<Result<Vec<LayerMemory>, _>>()?;
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
