//! `edkm bench saved`

use dfdx::prelude::*;
use edkm_train::bench::layer::LayerBench;
use edkm_train::bench::saved::SavedRow;
use serde::Serialize;

use super::layer::settings;
use super::own_process;
use crate::args::{BenchSavedArgs, ListBy};
use crate::commands::Failure;
use crate::console::{bytes, Output};

#[derive(Serialize)]
struct Figures {
    rows: Vec<SavedRow>,
}

pub fn run(args: BenchSavedArgs) -> Result<(), Failure> {
    if args.in_this_process {
        let device = Cpu::default();
        // freed memory goes back: what is measured is what is held
        device.disable_cache();
        let rows = LayerBench::new(settings(&args.sizes)?, &device)?.saved()?;
        Output::Json.json(&rows)?;
        return Ok(());
    }
    let figures = Figures {
        rows: own_process::measure(&["saved", "--in-this-process"], &args.sizes, "what is kept")?,
    };
    let output = Output::new(args.json);
    show(output, &args, &figures.rows);
    output.json(&figures)?;
    Ok(())
}

fn show(output: Output, args: &BenchSavedArgs, rows: &[SavedRow]) {
    let sizes = &args.sizes;
    output.line(format!(
        "decoder layer {} / {}, {} heads, {} x {} tokens, {} bits: kept from forward to backward",
        sizes.hidden, sizes.intermediate, sizes.heads, sizes.batch, sizes.seq, sizes.bits
    ));
    output.line(format!(
        "  {:12}{:18}{:12}{:>12}{:>12}{:>14}",
        "", "store", "run again", "kept", "times less", "store counts"
    ));
    for row in rows {
        let or_dash = |count: Option<u64>| count.map_or("-".to_owned(), bytes);
        output.line(format!(
            "  {:12}{:18}{:12}{:>12}{:>12}{:>14}",
            row.ops,
            row.store,
            row.recompute,
            row.kept_bytes.map_or("unknown".to_owned(), bytes),
            row.times_less
                .map_or("unknown".to_owned(), |times| format!("{times:.2}")),
            or_dash(row.store_bytes),
        ));
        if args.by == Some(ListBy::Tensor) {
            for tensor in &row.tensors {
                output.line(format!(
                    "      {:22}{:>3} saves{:>12}, kept{:>12}",
                    tensor.label,
                    tensor.saves,
                    bytes(tensor.saved_bytes),
                    bytes(tensor.kept_bytes)
                ));
            }
        }
    }
    output.line("  (kept: growth of the process's memory with the layer's input; store counts: what the store keeps, and trajectories)");
}
