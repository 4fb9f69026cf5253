//! `edkm bench layer`

use dfdx_edkm::EdkmDevice;
use edkm_cluster::Bits;
use edkm_store::StoreSpec;
use edkm_train::bench::layer::{LayerBench, LayerMemory, LayerSettings, Variant};
use edkm_train::memory::resident_bytes;
use serde::{Deserialize, Serialize};

use super::own_process::{self, Freed};
use crate::args::{BenchLayerArgs, LayerSizeArgs};
use crate::commands::Failure;
use crate::console::{bytes, Output};
use crate::device::{DeviceChoice, OnDevice};

#[derive(Serialize)]
struct Row {
    name: &'static str,
    seconds: Option<f64>,
    gflops: Option<f64>,
    #[serde(flatten)]
    memory: Option<LayerMemory>,
    not_measured: Option<String>,
}

impl Row {
    fn new(variant: Variant, seconds: f64, flop: f64, memory: LayerMemory) -> Self {
        Self {
            name: variant.name(),
            seconds: Some(seconds),
            gflops: Some(flop / seconds * 1e-9),
            memory: Some(memory),
            not_measured: None,
        }
    }

    fn not_measured(variant: Variant, reason: String) -> Self {
        Self {
            name: variant.name(),
            seconds: None,
            gflops: None,
            memory: None,
            not_measured: Some(reason),
        }
    }
}

#[derive(Serialize)]
struct Figures {
    rows: Vec<Row>,
    clustered_over_unclustered: Option<f64>,
    clustered_over_stock: Option<f64>,
}

impl Figures {
    fn new(rows: Vec<Row>) -> Self {
        let seconds = |variant: Variant| rows.iter().find(|row| row.name == variant.name())?.seconds;
        let over = |variant| Some(seconds(Variant::Clustered)? / seconds(variant)?);
        Self {
            clustered_over_unclustered: over(Variant::Unclustered),
            clustered_over_stock: over(Variant::Stock),
            rows,
        }
    }
}

/// One row, as a process of its own prints it.
#[derive(Serialize, Deserialize)]
struct RowFigures {
    /// Not on the CPU, where all rows are timed in turns.
    seconds: Option<f64>,
    flop: f64,
    memory: LayerMemory,
}

/// The measurement of one row.
struct OneRow {
    settings: LayerSettings,
    variant: Variant,
    resident_before: Option<u64>,
    /// How often it is timed, if it is.
    timed: Option<usize>,
}

impl OnDevice for OneRow {
    type Output = RowFigures;

    fn run<D: EdkmDevice>(self, device: &D) -> Result<RowFigures, Failure> {
        let bench = LayerBench::new(self.settings, device)?;
        let timed = self.timed.map(|repeats| bench.seconds_of(self.variant, repeats));
        Ok(RowFigures {
            seconds: timed.transpose()?,
            flop: bench.flop(),
            memory: bench.memory(self.variant, self.resident_before)?,
        })
    }
}

/// The times of all rows in turns.
struct AllTimes {
    settings: LayerSettings,
    repeats: usize,
}

impl OnDevice for AllTimes {
    type Output = [f64; Variant::ALL.len()];

    fn run<D: EdkmDevice>(self, device: &D) -> Result<Self::Output, Failure> {
        Ok(LayerBench::new(self.settings, device)?.seconds(self.repeats)?)
    }
}

pub fn run(args: BenchLayerArgs) -> Result<(), Failure> {
    args.device.check()?;
    args.device.check_memory(args.device_memory)?;
    let settings = LayerSettings {
        store: args.store.parse()?,
        device_memory: args.device_memory,
        ..settings(&args.sizes)?
    };
    let on_cpu = args.device.device == DeviceChoice::Cpu;
    if args.trace.is_some() && !on_cpu {
        return Err("--trace is for --device cpu: on a GPU every row has a process of its own; bench step --trace shows what is launched".into());
    }
    if let Some(variant) = args.row {
        let row = OneRow {
            settings,
            variant: variant.into(),
            resident_before: resident_bytes(),
            timed: (!on_cpu).then_some(args.repeats),
        };
        Output::Json.json(&args.device.run(row)?)?;
        return Ok(());
    }
    let rows = match on_cpu {
        true => rows_of_cpu(&args, settings)?,
        false => rows_of_gpu(&args)?,
    };
    let figures = Figures::new(rows);
    show(Output::new(args.json), &args, &figures);
    Output::new(args.json).json(&figures)?;
    Ok(())
}

/// Memory in a process for each row, then times in turns.
fn rows_of_cpu(args: &BenchLayerArgs, settings: LayerSettings) -> Result<Vec<Row>, Failure> {
    let memory = Variant::ALL
        .into_iter()
        .map(|variant| measure(args, variant, Freed::GoesBack))
        .collect::<Result<Vec<_>, _>>()?;
    let repeats = args.repeats;
    let seconds = args.device.run(AllTimes { settings, repeats })?;
    let rows = Variant::ALL.into_iter().zip(memory).zip(seconds);
    Ok(rows
        .map(|((variant, row), seconds)| Row::new(variant, seconds, row.flop, row.memory))
        .collect())
}

/// A process for each row. That of stock ops, which are dfdx's kernels, may fail.
fn rows_of_gpu(args: &BenchLayerArgs) -> Result<Vec<Row>, Failure> {
    Variant::ALL
        .into_iter()
        .map(|variant| match measure(args, variant, Freed::IsKept) {
            Ok(RowFigures {
                seconds: Some(seconds),
                flop,
                memory,
            }) => Ok(Row::new(variant, seconds, flop, memory)),
            Ok(_) => Err(format!("{} was not timed", variant.name()).into()),
            Err(reason) if variant == Variant::Stock => Ok(Row::not_measured(variant, reason.to_string())),
            Err(reason) => Err(reason),
        })
        .collect()
}

/// A row in a process of its own.
fn measure(args: &BenchLayerArgs, variant: Variant, freed: Freed) -> Result<RowFigures, Failure> {
    let mut arguments: Vec<String> = ["layer", "--row", variant.name(), "--store", &args.store]
        .map(str::to_owned)
        .into();
    arguments.extend(["--repeats".to_owned(), args.repeats.to_string()]);
    if let Some(budget) = args.device_memory {
        arguments.extend(["--device-memory".to_owned(), budget.to_string()]);
    }
    arguments.extend(size_arguments(&args.sizes));
    arguments.extend(args.device.arguments());
    own_process::measure(arguments, freed, variant.name())
}

/// The layer, which saves to the default store.
pub(super) fn settings(sizes: &LayerSizeArgs) -> Result<LayerSettings, Failure> {
    Ok(LayerSettings {
        hidden: sizes.hidden,
        intermediate: sizes.intermediate,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads.unwrap_or(sizes.heads),
        sequence: sizes.seq,
        batch: sizes.batch,
        bits: Bits::new(sizes.bits)?,
        store: StoreSpec::default(),
        device_memory: None,
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
    match args.device.device {
        DeviceChoice::Cpu => show_cpu(output, &figures.rows),
        DeviceChoice::Cuda(_) => show_gpu(output, &figures.rows),
    }
    let or_unknown = |ratio: Option<f64>| ratio.map_or("unknown".to_owned(), |ratio| format!("{ratio:.3}"));
    output.line(format!(
        "  clustered over unclustered {}, over stock dfdx {}",
        or_unknown(figures.clustered_over_unclustered),
        or_unknown(figures.clustered_over_stock)
    ));
}

fn show_cpu(output: Output, rows: &[Row]) {
    output.line(format!(
        "  {:14}{:>10}{:>10}{:>16}{:>18}",
        "", "seconds", "GFLOP/s", "peak resident", "kept for backward"
    ));
    for row in rows {
        output.line(format!(
            "  {:14}{:>10}{:>10}{:>16}{:>18}",
            row.name,
            number(row.seconds, 3),
            number(row.gflops, 1),
            or_unknown(row.memory.and_then(|memory| memory.peak_resident_bytes)),
            or_unknown(row.memory.and_then(|memory| memory.kept_bytes))
        ));
    }
    output.line("  (peak beyond weights and their gradients; both measured in a process for each row)");
}

fn show_gpu(output: Output, rows: &[Row]) {
    output.line(format!(
        "  {:14}{:>10}{:>10}{:>14}{:>14}{:>14}{:>14}{:>21}{:>21}",
        "", "seconds", "GFLOP/s", "GPU peak", "kept on GPU", "GPU taken", "kept on host", "to host", "to GPU"
    ));
    for row in rows {
        let (memory, Some(device)) = (row.memory, row.memory.and_then(|memory| memory.device)) else {
            let reason = row.not_measured.as_deref().unwrap_or("no figures");
            output.line(format!("  {:14}not measured: {reason}", row.name));
            continue;
        };
        output.line(format!(
            "  {:14}{:>10}{:>10}{:>14}{:>14}{:>14}{:>14}{:>21}{:>21}",
            row.name,
            number(row.seconds, 4),
            number(row.gflops, 1),
            or_unknown(device.device_peak_bytes),
            or_unknown(device.device_kept_bytes),
            or_unknown(device.device_taken_bytes),
            or_unknown(memory.map(|memory| memory.store_bytes)),
            copies(device.copies_to_host, device.bytes_to_host),
            copies(device.copies_to_device, device.bytes_to_device)
        ));
    }
    output.line("  (a process for each row; GPU peak: beyond weights and their gradients; GPU taken: of the whole GPU, after the passes;");
    output.line("  copies: of one forward and backward pass, without dfdx's own)");
}

/// How many copies, and of how much.
pub(super) fn copies(count: u64, of: u64) -> String {
    format!("{count} x, {}", bytes(of))
}

fn or_unknown(count: Option<u64>) -> String {
    count.map_or("unknown".to_owned(), bytes)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("unknown".to_owned(), |value| format!("{value:.digits$}"))
}
