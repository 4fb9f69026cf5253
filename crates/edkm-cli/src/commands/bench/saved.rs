//! `edkm bench saved`

use dfdx_edkm::EdkmDevice;
use edkm_train::bench::layer::{LayerBench, LayerSettings};
use edkm_train::bench::saved::{compare_with_stock, SavedPart, SavedRow};
use serde::Serialize;

use super::layer::{copies, settings, size_arguments};
use super::own_process::{self, Freed};
use crate::args::{BenchSavedArgs, ListBy};
use crate::commands::Failure;
use crate::console::{bytes, Output};
use crate::device::{DeviceChoice, OnDevice};

#[derive(Serialize)]
struct Figures {
    rows: Vec<SavedRow>,
}

/// Passes on a GPU, of whose seconds the median is taken.
const TIMED_PASSES: usize = 3;

/// The measurement of some rows.
struct Rows {
    settings: LayerSettings,
    part: SavedPart,
}

impl OnDevice for Rows {
    type Output = Vec<SavedRow>;

    fn run<D: EdkmDevice>(self, device: &D) -> Result<Vec<SavedRow>, Failure> {
        Ok(LayerBench::new(self.settings, device)?.saved(self.part, TIMED_PASSES)?)
    }
}

pub fn run(args: BenchSavedArgs) -> Result<(), Failure> {
    args.device.check()?;
    if let Some(rows) = args.rows {
        let rows = Rows {
            settings: settings(&args.sizes)?,
            part: rows.into(),
        };
        Output::Json.json(&args.device.run(rows)?)?;
        return Ok(());
    }
    let mut rows = match measure(&args, "stock") {
        // stock ops are dfdx's kernels, which may fail on a GPU
        Err(reason) if args.device.device != DeviceChoice::Cpu => {
            vec![SavedRow::stock_not_measured(reason.to_string())]
        }
        rows => rows?,
    };
    rows.extend(measure(&args, "fused")?);
    compare_with_stock(&mut rows);
    let output = Output::new(args.json);
    show(output, &args, &rows);
    output.json(&Figures { rows })?;
    Ok(())
}

/// Rows in a process of their own.
fn measure(args: &BenchSavedArgs, rows: &str) -> Result<Vec<SavedRow>, Failure> {
    let mut arguments: Vec<String> = ["saved", "--rows", rows].map(str::to_owned).into();
    arguments.extend(size_arguments(&args.sizes));
    arguments.extend(args.device.arguments());
    let freed = match args.device.device {
        DeviceChoice::Cpu => Freed::GoesBack,
        DeviceChoice::Cuda(_) => Freed::IsKept,
    };
    own_process::measure(arguments, freed, &format!("what {rows} ops keep"))
}

fn show(output: Output, args: &BenchSavedArgs, rows: &[SavedRow]) {
    let sizes = &args.sizes;
    output.line(format!(
        "decoder layer {} / {}, {} heads, {} x {} tokens, {} bits: kept from forward to backward",
        sizes.hidden, sizes.intermediate, sizes.heads, sizes.batch, sizes.seq, sizes.bits
    ));
    let on_gpu = args.device.device != DeviceChoice::Cpu;
    let mut head = format!(
        "  {:12}{:18}{:12}{:>12}{:>12}{:>14}",
        "", "store", "run again", "kept", "times less", "store counts"
    );
    if on_gpu {
        head += &format!(
            "{:>12}{:>14}{:>14}{:>21}{:>21}",
            "seconds", "kept on GPU", "GPU peak", "to host", "to GPU"
        );
    }
    output.line(head);
    let or_dash = |count: Option<u64>| count.map_or("-".to_owned(), bytes);
    for row in rows {
        let mut line = format!("  {:12}{:18}{:12}", row.ops, row.store, row.recompute);
        if let Some(reason) = &row.not_measured {
            output.line(format!("{line}not measured: {reason}"));
            continue;
        }
        line += &format!(
            "{:>12}{:>12}{:>14}",
            row.kept_bytes.map_or("unknown".to_owned(), bytes),
            row.times_less
                .map_or("unknown".to_owned(), |times| format!("{times:.2}")),
            or_dash(row.store_bytes),
        );
        if let (Some(device), Some(seconds)) = (row.device, row.seconds) {
            line += &format!(
                "{seconds:>12.4}{:>14}{:>14}{:>21}{:>21}",
                or_dash(device.device_kept_bytes),
                or_dash(device.device_peak_bytes),
                copies(device.copies_to_host, device.bytes_to_host),
                copies(device.copies_to_device, device.bytes_to_device)
            );
        }
        output.line(line);
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
    output.line(match on_gpu {
        false => "  (kept: growth of the process's memory with the layer's input; store counts: what the store keeps, and trajectories)",
        true => {
            "  (kept: on the GPU with the layer's input, and by the store on the host; seconds and copies: of forward and backward; GPU peak: beyond \
             weights and their gradients)"
        }
    });
}
