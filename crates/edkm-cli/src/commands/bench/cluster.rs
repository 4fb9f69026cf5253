//! `edkm bench cluster`

use dfdx_edkm::EdkmDevice;
use edkm_cluster::bench::ClusterBench;
use edkm_cluster::{Bits, Grouping, Spec, VectorLen};
use serde::Serialize;

use crate::args::BenchClusterArgs;
use crate::commands::Failure;
use crate::console::{bytes, Output};
use crate::device::OnDevice;

#[derive(Serialize)]
struct Figures {
    forward_seconds: f64,
    backward_seconds: f64,
    memcpy_seconds: f64,
    ratio: f64,
    distinct_values: usize,
    saved_bytes: usize,
}

/// The measurement.
struct Bench<'a> {
    args: &'a BenchClusterArgs,
    spec: Spec,
}

impl OnDevice for Bench<'_> {
    type Output = ClusterBench;

    fn run<D: EdkmDevice>(self, device: &D) -> Result<ClusterBench, Failure> {
        let Self { args, spec } = self;
        Ok(device.bench_clustering(args.rows, args.cols, &spec, args.repeats)?)
    }
}

pub fn run(args: BenchClusterArgs) -> Result<(), Failure> {
    let output = Output::new(args.json);
    let spec = Spec::new(Bits::new(args.bits)?)
        .with_iterations(args.iterations)
        .with_grouping(args.group.map_or(Grouping::PerTensor, Grouping::PerChannels))
        .with_vector(VectorLen::new(args.vector)?);
    let _span = tracing::trace_span!("bench cluster").entered();
    let measured = args.device.run(Bench { args: &args, spec })?;
    let figures = Figures {
        forward_seconds: measured.forward_seconds,
        backward_seconds: measured.backward_seconds,
        memcpy_seconds: measured.memcpy_seconds,
        ratio: (measured.forward_seconds + measured.backward_seconds) / measured.memcpy_seconds,
        distinct_values: measured.distinct_values,
        saved_bytes: measured.saved_bytes,
    };
    output.line(format!(
        "clustering [{}, {}] to {} bits, medians of {}",
        args.rows, args.cols, args.bits, args.repeats
    ));
    output.line(format!("  forward          {:9.4} s", figures.forward_seconds));
    output.line(format!("  backward         {:9.4} s", figures.backward_seconds));
    output.line(format!(
        "  copying the same {:9.4} s  (W, W~, g and dW once, on the same device)",
        figures.memcpy_seconds
    ));
    output.line(format!("  ratio            {:9.2}", figures.ratio));
    output.line(format!("  distinct values  {:>9}", figures.distinct_values));
    output.line(format!(
        "  kept for backward {:>8}  (beyond W)",
        bytes(figures.saved_bytes as u64)
    ));
    output.json(&figures)?;
    Ok(())
}
